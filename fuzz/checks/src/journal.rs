//! The entries of the agent's journal, which a later version, or a full file system, may have written.

use parallax_agent::journal::Entry;

/// Any bytes are refused, or are an entry that comes back as it was.
///
/// # Panics
/// If they are not.
pub fn check(input: &[u8]) {
    let Ok(entry) = serde_json::from_slice::<Entry>(input) else { return };
    let bytes = serde_json::to_vec(&entry).expect("an entry");
    assert_eq!(serde_json::from_slice::<Entry>(&bytes).ok(), Some(entry));
}
