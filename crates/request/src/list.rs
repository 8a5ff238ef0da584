//! Lists in an option's value: items separated by a character, with a backslash before characters that are meant as they are.

/// Splits at a separator that has no backslash before it. Backslashes stay in the items: see [`unescape`].
pub(crate) fn split(text: &str, separator: char) -> Vec<&str> {
    let mut items = Vec::new();
    let mut rest = text;
    let mut from = 0;
    loop {
        // Both are ASCII, so every position found is a character's begin.
        let Some(at) = rest.get(from..).and_then(|part| part.find([separator, '\\'])).map(|at| from + at) else {
            items.push(rest);
            return items;
        };
        if rest.as_bytes().get(at) == Some(&b'\\') {
            let escaped = rest.get(at + 1..).and_then(|part| part.chars().next()).map_or(0, char::len_utf8);
            from = at + 1 + escaped;
        } else {
            items.push(rest.get(..at).unwrap_or_default());
            rest = rest.get(at + 1..).unwrap_or_default();
            from = 0;
        }
    }
}

/// Removes the backslash before each character that has one. A backslash at the end stays.
pub(crate) fn unescape(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => result.push(characters.next().unwrap_or('\\')),
            _ => result.push(character),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_split_where_no_backslash_is() {
        assert_eq!(split(r"a,b\,c,,ä\\,d", ','), ["a", r"b\,c", "", r"ä\\", "d"]);
        assert_eq!(split("", ','), [""]);
        assert_eq!(split(r"a\", ','), [r"a\"]);
        assert_eq!(split(r"\ä,b", ','), [r"\ä", "b"]);
    }

    #[test]
    fn backslashes_go() {
        assert_eq!(unescape(r"b\,c\:d\ e\\"), r"b,c:d e\");
        assert_eq!(unescape(r"a\"), r"a\");
    }
}
