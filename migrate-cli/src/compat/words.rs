//! Options for mksquashfs, given as one text: split as by a shell, and never executed.

/// Splits a text at white space outside of quotes. A backslash takes the next character as it is, but inside single quotes.
///
/// # Errors
/// An open quote; or what only a shell could execute, which the Go tool had it do.
pub(super) fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some('\''), '\'') | (Some('"'), '"') => quote = None,
            (Some('\''), other) => word.get_or_insert_default().push(other),
            (_, '`') => return Err("commands in backticks are not executed".to_owned()),
            (_, '\\') => match characters.next() {
                Some(next) => word.get_or_insert_default().push(next),
                None => return Err("it ends in a backslash".to_owned()),
            },
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, ';' | '&' | '|' | '<' | '>' | '(' | ')') => {
                return Err(format!("\"{character}\" has no meaning here; quote it"));
            }
            (None, space) if space.is_whitespace() => words.extend(word.take()),
            (_, other) => word.get_or_insert_default().push(other),
        }
    }
    if quote.is_some() {
        return Err("a quote is open".to_owned());
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_apart_as_in_a_shell() {
        for (text, words) in [
            ("-comp zstd  -b 1M", &["-comp", "zstd", "-b", "1M"][..]),
            ("", &[]),
            (r#"-e 'a b' "c d" e\ f ''"#, &["-e", "a b", "c d", "e f", ""]),
            (r#"'a\b' "a\"b""#, &[r"a\b", "a\"b"]),
        ] {
            assert_eq!(split(text).unwrap(), words, "{text}");
        }
    }

    #[test]
    fn nothing_is_executed() {
        for text in ["`id`", "-comp `id`", "\"`id`\"", "a; b", "a | b", "'open", "a\\", "$(id)"] {
            assert!(split(text).is_err(), "{text}");
        }
        assert_eq!(split("'`id`'").unwrap(), ["`id`"]);
    }
}
