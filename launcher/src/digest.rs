//! Digests of small documents.

use parallax_format::digest::Sha256;
use sha2::Digest as _;

/// The SHA-256 of these bytes.
pub(crate) fn sha256(bytes: &[u8]) -> Sha256 {
    <[u8; 32]>::from(sha2::Sha256::digest(bytes)).into()
}
