//! Variables in strings: `${NAME}`, `${NAME:-WORD}`, `${NAME:+WORD}`, `${NAME:?WORD}` and `$$`.
//!
//! A string is expanded once: what a variable holds is taken as it is. No shell takes part.

use crate::error::EdfError;
use crate::place::{Place, Text};

/// Maximum number of expansions in each other's words (`${A:-${B:-…}}`).
const MAX_NESTED: usize = 10;
/// What is written for a dollar sign or a variable.
const HOW: &str = "write ${NAME} for a variable, or $$ for a dollar sign";

/// Returns the string with its variables replaced. `limit` is the maximum length of the result in bytes.
///
/// # Errors
/// A variable is not set, something after a `$` is neither of the forms, or the result is too long.
pub(crate) fn expand(text: &Text, variable: &dyn Fn(&str) -> Option<String>, limit: usize) -> Result<String, EdfError> {
    let mut expansion = Expansion { text, variable, limit, result: String::new() };
    let end = expansion.until(0, None, true, 0)?;
    debug_assert_eq!(end, text.value.len(), "without a closing brace the end is the text's");
    Ok(expansion.result)
}

struct Expansion<'a> {
    text: &'a Text,
    variable: &'a dyn Fn(&str) -> Option<String>,
    limit: usize,
    result: String,
}

/// What follows a variable's name.
enum Operator {
    /// `:-`: the word if the variable is unset or empty.
    Default,
    /// `:+`: the word if the variable is set and not empty.
    Alternative,
    /// `:?`: an error with the word if the variable is unset or empty.
    Required,
}

impl Expansion<'_> {
    fn at(&self, byte: usize) -> Place {
        self.text.place_of(byte)
    }

    fn rest(&self, from: usize) -> &str {
        self.text.value.get(from..).unwrap_or_default()
    }

    fn add(&mut self, text: &str) -> Result<(), EdfError> {
        self.result.push_str(text);
        if self.result.len() > self.limit {
            return Err(EdfError::TooLarge(format!("{}: the expanded string", self.text.place)));
        }
        Ok(())
    }

    /// Expands up to the closing character, or to the end without one; adds the result if `used`. Returns where it ended.
    fn until(&mut self, from: usize, close: Option<char>, used: bool, nested: usize) -> Result<usize, EdfError> {
        let mut at = from;
        loop {
            let rest = self.rest(at);
            let Some(next) = rest.find(|c| c == '$' || Some(c) == close) else {
                let plain = rest.to_owned();
                if used {
                    self.add(&plain)?;
                }
                return Ok(self.text.value.len());
            };
            let plain = rest.get(..next).unwrap_or_default().to_owned();
            if used {
                self.add(&plain)?;
            }
            at += next;
            if !self.rest(at).starts_with('$') {
                return Ok(at);
            }
            at = self.dollar(at, used, nested)?;
        }
    }

    /// Expands what begins with the `$` at this byte. Returns where it ended.
    fn dollar(&mut self, at: usize, used: bool, nested: usize) -> Result<usize, EdfError> {
        let rest = self.rest(at + 1);
        if rest.starts_with('$') {
            if used {
                self.add("$")?;
            }
            return Ok(at + 2);
        }
        let Some(inner) = rest.strip_prefix('{') else {
            return Err(EdfError::at(self.at(at), format!("a \"$\" that begins no variable; {HOW}")));
        };
        if nested == MAX_NESTED {
            return Err(EdfError::at(self.at(at), format!("more than {MAX_NESTED} variables in each other")));
        }
        let length = inner.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inner.len());
        let name = inner.get(..length).unwrap_or_default().to_owned();
        let after = at + 2 + length;
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(EdfError::at(self.at(at), format!("a \"${{\" without the name of a variable; {HOW}")));
        }
        let value = (self.variable)(&name);
        if self.rest(after).starts_with('}') {
            let Some(value) = value.or_else(|| (!used).then(String::new)) else {
                let told =
                    format!("the variable {name} is not set; set it, or write ${{{name}:-VALUE}} with a default");
                return Err(EdfError::at(self.at(at), told));
            };
            if used {
                self.add(&value)?;
            }
            return Ok(after + 1);
        }
        let operator = match self.rest(after).get(..2) {
            Some(":-") => Operator::Default,
            Some(":+") => Operator::Alternative,
            Some(":?") => Operator::Required,
            _ => {
                let told = format!("after ${{{name} there may be a }}, :-VALUE}}, :+VALUE}} or :?MESSAGE}}");
                return Err(EdfError::at(self.at(after), told));
            }
        };
        self.operate(at, after + 2, &name, value.filter(|value| !value.is_empty()), &operator, (used, nested))
    }

    /// Expands a variable with an operator, whose word begins at `word`. `value` is `None` if the variable is unset or empty.
    fn operate(
        &mut self,
        at: usize,
        word: usize,
        name: &str,
        value: Option<String>,
        operator: &Operator,
        (used, nested): (bool, usize),
    ) -> Result<usize, EdfError> {
        let is_word = match operator {
            Operator::Default | Operator::Required => value.is_none(),
            Operator::Alternative => value.is_some(),
        };
        let before = self.result.len();
        let end = self.until(word, Some('}'), used && is_word, nested + 1)?;
        if !self.rest(end).starts_with('}') {
            return Err(EdfError::at(self.at(at), format!("${{{name} has no closing brace; {HOW}")));
        }
        match (operator, value) {
            (Operator::Required, None) if used => {
                let told = self.result.split_off(before);
                let told = if told.is_empty() { "it is not set or empty".to_owned() } else { told };
                return Err(EdfError::at(self.at(at), format!("the variable {name}: {told}")));
            }
            (Operator::Default | Operator::Required, Some(value)) if used => self.add(&value)?,
            _ => {}
        }
        Ok(end + 1)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;

    fn expanded(value: &str) -> Result<String, String> {
        let place = Place { file: Arc::from(Path::new("e.toml")), line: 2, column: 10 };
        let text = Text { value: value.to_owned(), place, is_literal: true };
        let variable = |name: &str| match name {
            "USER" => Some("u1".to_owned()),
            "EMPTY" => Some(String::new()),
            "MONEY" => Some("$$ ${USER}".to_owned()),
            _ => None,
        };
        expand(&text, &variable, 64).map_err(|error| error.to_string())
    }

    #[test]
    fn forms() {
        for (text, expected) in [
            ("", ""),
            ("plain ü", "plain ü"),
            ("/home/${USER}/ü", "/home/u1/ü"),
            ("${USER}${USER}", "u1u1"),
            ("${EMPTY}", ""),
            ("$$", "$"),
            ("$$${USER}", "$u1"),
            ("$${USER}", "${USER}"),
            ("${USER:-x}", "u1"),
            ("${NONE:-x}", "x"),
            ("${EMPTY:-x}", "x"),
            ("${NONE:-}", ""),
            ("${USER:+x}", "x"),
            ("${EMPTY:+x}", ""),
            ("a${NONE:+x}b", "ab"),
            ("${USER:?told}", "u1"),
            ("${NONE:-${USER}/x}", "u1/x"),
            ("${NONE:-${EMPTY:-$$}}", "$"),
            // What is not used must be well-formed, but need not be set.
            ("${USER:-${NONE}}", "u1"),
            ("a}b", "a}b"),
            // Once: what a variable holds is taken as it is.
            ("${MONEY}", "$$ ${USER}"),
        ] {
            assert_eq!(expanded(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_refused_says_where_and_why() {
        for (text, column, why) in [
            ("${NONE}", 11, "the variable NONE is not set; set it, or write ${NONE:-VALUE}"),
            ("ü${NONE}", 12, "the variable NONE is not set"),
            ("a$", 12, "begins no variable"),
            ("$USER", 11, "begins no variable"),
            ("$(id)", 11, "write ${NAME} for a variable, or $$ for a dollar sign"),
            ("${}", 11, "without the name"),
            ("${1}", 11, "without the name"),
            ("${USER", 17, "there may be a }"),
            ("${USER%x}", 17, "there may be a }"),
            ("${USER-x}", 17, "there may be a }"),
            ("x${NONE:-y", 12, "no closing brace"),
            ("${NONE:?set it to your project}", 11, "the variable NONE: set it to your project"),
            ("${EMPTY:?}", 11, "the variable EMPTY: it is not set or empty"),
            ("${NONE:-${OTHER}}", 19, "the variable OTHER is not set"),
        ] {
            let message = expanded(text).unwrap_err();
            let place = format!("e.toml, line 2, column {column}: ");
            assert!(message.starts_with(&place) && message.contains(why), "{text}: {message}");
        }
    }

    #[test]
    fn a_string_cannot_grow_without_limit() {
        assert!(expanded(&"x".repeat(64)).is_ok());
        assert!(expanded(&"x".repeat(65)).unwrap_err().contains("exceeds 1 MiB"));
        let nested = "${NONE:-".repeat(20) + &"}".repeat(20);
        assert!(expanded(&nested).unwrap_err().contains("more than 10 variables in each other"));
    }
}
