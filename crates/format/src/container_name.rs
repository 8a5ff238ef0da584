//! Names of containers that the steps of a job share.

/// Maximum length of a name in bytes.
const MAX_LENGTH: usize = 64;

/// Whether a text can be the name of a container: letters, digits, `.`, `_` and `-`, the first of them a letter or a digit.
#[must_use]
pub fn is_container_name(text: &str) -> bool {
    let begins_well = text.starts_with(|first: char| first.is_ascii_alphanumeric());
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    begins_well && text.len() <= MAX_LENGTH && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

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
