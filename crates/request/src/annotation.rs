//! Annotations: `NAME=VALUE`, separated by commas.

use crate::error::RequestError;
use crate::list::{split, unescape};

/// Parses a list of annotations.
pub(crate) fn parse_list(text: &str) -> Result<Vec<(String, String)>, RequestError> {
    split(text, ',').into_iter().map(|item| parse(&unescape(item))).collect()
}

fn parse(text: &str) -> Result<(String, String), RequestError> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(RequestError::Annotation(text.to_owned())),
    }
}

/// Adds annotations, which take the place of earlier ones with their names.
pub(crate) fn push(annotations: &mut Vec<(String, String)>, more: Vec<(String, String)>) {
    for (name, value) in more {
        match annotations.iter_mut().find(|(other, _)| *other == name) {
            Some((_, same)) => *same = value,
            None => annotations.push((name, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_add_up() {
        let mut all = parse_list(r"a=1,b.c/d=x\,y=z,e=").unwrap();
        push(&mut all, parse_list("a=2").unwrap());
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(all, [pair("a", "2"), pair("b.c/d", "x,y=z"), pair("e", "")]);
        for text in ["", "a", "=1", "a=1,"] {
            assert!(parse_list(text).unwrap_err().to_string().contains("is not NAME=VALUE"), "{text}");
        }
    }
}
