//! SHA-256 digests in hexadecimal digits, and ids, which are digests of something.
//!
//! Records, file names and ids have the digits alone; manifests, configurations and Podman's lists have digests, with the
//! algorithm before the digits: `sha256:…`. Digits are lower case in both, as the OCI image specification demands, so that texts
//! can be compared and used in paths. All types here are parsed once, where a text comes in, and need no allocation.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::path::Path;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, Serializer};

/// The algorithm before the digits of a digest.
const PREFIX: &str = "sha256:";
/// Number of hexadecimal digits of a SHA-256.
const DIGITS: usize = 64;
/// Number of digits of an id that lists and messages show, and the fewest that name an image.
pub(crate) const SHORT: usize = 12;

/// A text that is not what a type of this module needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what}: not {expected}")]
pub struct InvalidDigest {
    /// What the text should be, such as `image id`.
    what: &'static str,
    expected: &'static str,
}

/// A SHA-256: 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sha256([u8; DIGITS]);

impl Sha256 {
    /// Returns the digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Digits are ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Returns the first digits, as lists and messages show them.
    #[must_use]
    pub fn short(&self) -> &str {
        short_id(self.as_str())
    }

    /// Parses 64 lower-case hexadecimal digits; `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.as_bytes().try_into().ok().filter(|_| is_hex(text)).map(Self)
    }
}

impl From<[u8; 32]> for Sha256 {
    /// Writes the 32 bytes of a hash in digits.
    fn from(hash: [u8; 32]) -> Self {
        let digit = |value: u8| if value < 10 { b'0' + value } else { b'a' + value - 10 };
        let mut digits = [b'0'; DIGITS];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(hash) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
        }
        Self(digits)
    }
}

impl Deref for Sha256 {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

// As that of the text, so that a set can be asked for a text.
impl Hash for Sha256 {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl AsRef<Path> for Sha256 {
    fn as_ref(&self) -> &Path {
        Path::new(self.as_str())
    }
}

impl Borrow<str> for Sha256 {
    fn borrow(&self) -> &str {
        self
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

/// Implements what all types of this module have: their texts are parsed strictly and written as they were.
macro_rules! text {
    ($name:ident, $what:literal, $expected:literal) => {
        impl FromStr for $name {
            type Err = InvalidDigest;

            fn from_str(text: &str) -> Result<Self, InvalidDigest> {
                Self::parse(text).ok_or(InvalidDigest { what: $what, expected: $expected })
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    // The text is left out of the error: it can be of any length.
                    fn visit_str<E: Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }

                deserializer.deserialize_str(Text)
            }
        }
    };
}

/// Makes a type for SHA-256 digests of one meaning.
macro_rules! meaning {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Sha256);

        impl $name {
            /// Parses 64 lower-case hexadecimal digits; `None` for any other text.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                Sha256::parse(text).map(Self)
            }
        }

        impl From<Sha256> for $name {
            fn from(sha256: Sha256) -> Self {
                Self(sha256)
            }
        }

        impl Deref for $name {
            type Target = Sha256;

            fn deref(&self) -> &Sha256 {
                &self.0
            }
        }

        impl AsRef<Path> for $name {
            fn as_ref(&self) -> &Path {
                Path::new(self.as_str())
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        text!($name, $what, "64 lower-case hexadecimal digits");
    };
}

text!(Sha256, "SHA-256", "64 lower-case hexadecimal digits");

meaning! {
    /// The id of an image: the SHA-256 of its configuration. The Go tool draws ids at random.
    ImageId, "image id"
}

meaning! {
    /// The SHA-256 of a layer's uncompressed tar stream.
    DiffId, "diffID"
}

meaning! {
    /// Podman's id of a layer: for layers that Parallax or Podman made, the chain ID of the OCI image specification.
    LayerId, "layer id"
}

/// A digest with its algorithm, `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(Sha256);

impl Digest {
    /// Returns the digest without the algorithm.
    #[must_use]
    pub fn sha256(&self) -> &Sha256 {
        &self.0
    }

    /// Parses `sha256:` and 64 lower-case hexadecimal digits; `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.strip_prefix(PREFIX).and_then(Sha256::parse).map(Self)
    }
}

impl From<Sha256> for Digest {
    fn from(sha256: Sha256) -> Self {
        Self(sha256)
    }
}

impl From<ImageId> for Digest {
    /// Returns the digest of the image's configuration.
    fn from(id: ImageId) -> Self {
        Self(*id)
    }
}

impl From<DiffId> for Digest {
    fn from(id: DiffId) -> Self {
        Self(*id)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        f.write_str(&self.0)
    }
}

text!(Digest, "digest", "sha256: and 64 lower-case hexadecimal digits");

/// Digests that are written without their algorithm: `#[serde(with = "without_algorithm")]`.
pub mod without_algorithm {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::{Digest, Sha256};

    /// Writes the digits of each digest.
    ///
    /// # Errors
    /// The errors of the serializer.
    pub fn serialize<S: Serializer>(digests: &[Digest], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(digests.iter().map(Digest::sha256))
    }

    /// Reads the digits of each digest.
    ///
    /// # Errors
    /// The text is not a list of SHA-256 digests in 64 digits each.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Digest>, D::Error> {
        Ok(Vec::<Sha256>::deserialize(deserializer)?.into_iter().map(Digest).collect())
    }
}

/// Returns a text without the algorithm, if it begins with the algorithm: ids are written with and without it.
#[must_use]
pub fn bare(text: &str) -> &str {
    text.strip_prefix(PREFIX).unwrap_or(text)
}

/// Returns the first digits of an id, as lists and messages show it.
#[must_use]
pub fn short_id(id: &str) -> &str {
    id.get(..SHORT).unwrap_or(id)
}

/// Returns the start of an id, as [`short_id`] returns it or longer, with or without `sha256:`; `None` for a complete id.
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
        assert_eq!(Sha256::parse(&hex).unwrap().as_str(), hex);
        assert_eq!(hex.parse::<DiffId>().unwrap().to_string(), hex);
        for text in [&hex[1..], &hex.to_uppercase(), &"g".repeat(64), &format!("{hex}0"), &"/".repeat(64), ""] {
            assert_eq!(Sha256::parse(text), None, "{text}");
            assert_eq!(Digest::parse(&format!("sha256:{text}")), None, "{text}");
        }
        let error = "../x".parse::<LayerId>().unwrap_err().to_string();
        assert_eq!(error, "invalid layer id: not 64 lower-case hexadecimal digits");
    }

    #[test]
    fn a_hash_is_written_in_digits() {
        let mut hash = [0xab; 32];
        (hash[0], hash[1], hash[31]) = (0x00, 0x9f, 0x10);
        let expected: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(Sha256::from(hash).as_str(), expected);
    }

    #[test]
    fn a_digest_has_the_algorithm_before_the_digits() {
        let hex = "ab".repeat(32);
        let digest = Digest::parse(&format!("sha256:{hex}")).unwrap();
        assert_eq!(digest.to_string(), format!("sha256:{hex}"));
        assert_eq!(digest.sha256().as_str(), hex);
        assert_eq!(Digest::parse(&hex), None);
        assert_eq!(Digest::parse(&format!("sha512:{hex}")), None);
        assert_eq!((bare(&digest.to_string()), bare(&hex)), (&*hex, &*hex));
    }

    #[test]
    fn short_ids_are_what_lists_show() {
        let id = ImageId::parse(&"ab".repeat(32)).unwrap();
        assert_eq!((id.short(), format!("{id:.12}").as_str()), ("abababababab", "abababababab"));
        assert_eq!(short_id("abc"), "abc");
        assert_eq!(start_of_id(id.short()), Some("abababababab"));
        assert_eq!(start_of_id(&id), None);
    }
}
