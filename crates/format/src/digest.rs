//! What a SHA-256 in hexadecimal digits is, and a digest, which has the algorithm before it: `sha256:…`.
//!
//! Records, file names and ids hold the digits alone; manifests, configurations and Podman's lists hold digests. Digits are
//! lower case in both, as the OCI image specification demands, so that texts can be compared and used in paths.

/// The algorithm before the digits of a digest.
const PREFIX: &str = "sha256:";
/// How many hexadecimal digits a SHA-256 has.
const DIGITS: usize = 64;
/// How many digits of an id lists and messages show, and the fewest that name an image.
pub(crate) const SHORT: usize = 12;

/// Whether a text is a SHA-256: 64 lower-case hexadecimal digits.
#[must_use]
pub fn is_sha256_hex(text: &str) -> bool {
    text.len() == DIGITS && is_hex(text)
}

/// The digits of a `sha256:` digest; `None` if `digest` is none.
#[must_use]
pub fn hex_of(digest: &str) -> Option<&str> {
    digest.strip_prefix(PREFIX).filter(|hex| is_sha256_hex(hex))
}

/// The digest with these digits.
#[must_use]
pub fn of_hex(hex: &str) -> String {
    format!("{PREFIX}{hex}")
}

/// A text without the algorithm, if it begins with it: ids are written with and without it.
#[must_use]
pub fn bare(text: &str) -> &str {
    text.strip_prefix(PREFIX).unwrap_or(text)
}

/// The first digits of an id, as lists and messages show it.
#[must_use]
pub fn short_id(id: &str) -> &str {
    id.get(..SHORT).unwrap_or(id)
}

/// The start of an id, as [`short_id`] gives it or longer, with or without `sha256:`; `None` for a whole id.
pub(crate) fn start_of_id(text: &str) -> Option<&str> {
    let bare = bare(text);
    ((SHORT..DIGITS).contains(&bare.len()) && is_hex(bare)).then_some(bare)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_64_and_lower_case() {
        let hex = "0123456789abcdef".repeat(4);
        assert!(is_sha256_hex(&hex));
        for text in [&hex[1..], &hex.to_uppercase(), &"g".repeat(64), &format!("{hex}0"), &"/".repeat(64), ""] {
            assert!(!is_sha256_hex(text), "{text}");
            assert_eq!(hex_of(&of_hex(text)), None, "{text}");
        }
    }

    #[test]
    fn a_digest_has_the_algorithm_before_the_digits() {
        let hex = "ab".repeat(32);
        assert_eq!(of_hex(&hex), format!("sha256:{hex}"));
        assert_eq!(hex_of(&of_hex(&hex)), Some(&*hex));
        assert_eq!(hex_of(&hex), None);
        assert_eq!(hex_of(&format!("sha512:{hex}")), None);
        assert_eq!((bare(&of_hex(&hex)), bare(&hex)), (&*hex, &*hex));
    }

    #[test]
    fn short_ids_are_what_lists_show() {
        assert_eq!(short_id(&"ab".repeat(32)), "abababababab");
        assert_eq!(short_id("abc"), "abc");
        assert_eq!(start_of_id(short_id(&"ab".repeat(32))), Some("abababababab"));
        assert_eq!(start_of_id(&"ab".repeat(32)), None);
    }
}
