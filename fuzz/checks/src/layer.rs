//! Layers of images: tar archives that anybody may have written.

use parallax_layers::{ArchiveError, ConvertError, Limits, rewritten};

/// Any bytes are refused, or become an archive that holds what they say, and no more than is allowed.
///
/// # Panics
/// If they do not.
pub fn check(input: &[u8]) {
    // Little, so that what is only claimed shows.
    let limits = Limits { bytes: 1 << 20, entries: 2000 };
    match rewritten(input, limits) {
        Ok(done) => {
            assert_eq!(done.content, done.archived);
            // Headers, names and attributes, of entries and of the directories above them.
            assert!(done.archive.len() as u64 <= limits.bytes + 8192 * (2 * limits.entries + 1) + (2 << 20));
        }
        Err(ConvertError::Archive(
            ArchiveError::Header { .. } | ArchiveError::Entry { .. } | ArchiveError::Truncated,
        )) => {}
        Err(other) => panic!("{other}"),
    }
}
