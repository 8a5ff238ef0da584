//! Names of containers that the steps of a job share, and what users write to mean one.

use serde::{Deserialize, Serialize};

/// Maximum length of a name in bytes.
const MAX_LENGTH: usize = 64;

/// Whether a text can be the name of a container: letters, digits, `.`, `_` and `-`, the first of them a letter or a digit.
#[must_use]
pub fn is_container_name(text: &str) -> bool {
    let begins_well = text.starts_with(|first: char| first.is_ascii_alphanumeric());
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    begins_well && text.len() <= MAX_LENGTH && text.bytes().all(allowed)
}

/// Whether the container of a name may be made, and may be there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerRule {
    /// The step joins it if it is there, and makes it if it is not.
    #[default]
    Auto,
    /// The step makes it; it must not be there.
    Create,
    /// The step joins it; it must be there.
    Exec,
}

/// Reads `NAME[:RULE]`, with `auto`, `create` or `exec` as the rule, by the words of pyxis. Its `no_exec` means `auto`: what a step
/// mounts in addition is its own here anyway. `None` for any other text.
#[must_use]
pub fn parse_container(text: &str) -> Option<(&str, ContainerRule)> {
    let (name, word) = text.split_once(':').unwrap_or((text, "auto"));
    let rule = match word {
        "auto" | "no_exec" => ContainerRule::Auto,
        "create" => ContainerRule::Create,
        "exec" => ContainerRule::Exec,
        _ => return None,
    };
    is_container_name(name).then_some((name, rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_a_rule() {
        assert_eq!(parse_container("env"), Some(("env", ContainerRule::Auto)));
        assert_eq!(parse_container("env:no_exec"), Some(("env", ContainerRule::Auto)));
        assert_eq!(parse_container("env:create"), Some(("env", ContainerRule::Create)));
        assert_eq!(parse_container("env:exec"), Some(("env", ContainerRule::Exec)));
        for text in ["env:", "env:other", ":exec", "a/b", "env:exec:exec"] {
            assert_eq!(parse_container(text), None, "{text}");
        }
    }

    #[test]
    fn names() {
        for name in ["a", "my-env_2.1", "9", &"x".repeat(MAX_LENGTH)] {
            assert!(is_container_name(name), "{name}");
        }
        for text in ["", ".", "..", "-x", "a/b", "a b", "\u{e4}", "a\n", &"x".repeat(MAX_LENGTH + 1)] {
            assert!(!is_container_name(text), "{text:?}");
        }
    }
}
