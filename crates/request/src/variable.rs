//! Changes of variables: `NAME=VALUE`, `NAME`, `-NAME`.

use serde::{Deserialize, Serialize};

use crate::error::RequestError;
use crate::list::{split, unescape};

/// A change of a variable in the tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variable {
    /// The variable has this value.
    Set(String, String),
    /// The variable keeps the job's value, though the image sets it.
    Keep(String),
    /// The variable is unset, whoever sets it.
    Unset(String),
    /// The variable has the image's value, or is unset: the job's value does not reach the tasks. No option asks for it.
    Image(String),
}

impl Variable {
    /// Parses one change; a backslash in it has no meaning.
    ///
    /// # Errors
    /// It is malformed.
    pub fn parse(text: &str) -> Result<Self, RequestError> {
        let malformed = |why| Err(RequestError::Assignment(text.to_owned(), why));
        let (unset, rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (name, value) = rest.split_once('=').map_or((rest, None), |(name, value)| (name, Some(value)));
        if name.is_empty() {
            return malformed("it has no name");
        }
        if text.contains('\0') {
            return malformed("a NUL character cannot be in a variable");
        }
        match (unset, value) {
            (true, Some(_)) => malformed("a variable that is unset has no value"),
            (true, None) => Ok(Self::Unset(name.to_owned())),
            (false, Some(value)) => Ok(Self::Set(name.to_owned(), value.to_owned())),
            (false, None) => Ok(Self::Keep(name.to_owned())),
        }
    }

    /// The variable's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Set(name, _) | Self::Keep(name) | Self::Unset(name) | Self::Image(name) => name,
        }
    }
}

/// Parses a list of changes.
pub(crate) fn parse_list(text: &str) -> Result<Vec<Variable>, RequestError> {
    split(text, ',').into_iter().map(|item| Variable::parse(&unescape(item))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let set = |name: &str, value: &str| Variable::Set(name.into(), value.into());
        assert_eq!(
            parse_list(r"A=1\,2=3,B=,C,-D").unwrap(),
            [set("A", "1,2=3"), set("B", ""), Variable::Keep("C".into()), Variable::Unset("D".into())]
        );
        assert_eq!(parse_list("A=x y ü").unwrap(), [set("A", "x y ü")]);
    }

    #[test]
    fn what_is_refused_says_why() {
        for (text, why) in
            [("", "no name"), ("A=1,", "no name"), ("=x", "no name"), ("-", "no name"), ("-A=1", "no value")]
        {
            let message = parse_list(text).unwrap_err().to_string();
            assert!(message.contains(why) && message.contains("NAME=VALUE"), "{text}: {message}");
        }
    }
}
