//! The entries of the agent's journal, which a later version, or a full file system, may have written.

use parallax_agent::journal::{Recorded, parse};

/// Any bytes are refused, or are an entry that comes back as it was.
///
/// # Panics
/// If they are not.
pub fn check(input: &[u8]) {
    let Ok(recorded) = parse(input, None) else { return };
    let Recorded::Entry(entry) = &recorded else { panic!("nothing says whose it is: {recorded:?}") };
    assert!(!entry.key.contains('/') && entry.key != "..", "the key {:?} is no name of a directory", entry.key);
    let bytes = serde_json::to_vec(entry).expect("an entry");
    assert_eq!(parse(&bytes, None), Ok(recorded));
}
