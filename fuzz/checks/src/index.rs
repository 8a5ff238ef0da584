//! Indexes of chunks, in casync's format.

use parallax_chunks::{ChunkId, Index, Matcher};

/// Any bytes are refused, or are an index that comes back as it was written, whose chunks cover the file without gaps and have paths
/// that do not lead out of the chunk store.
///
/// # Panics
/// If they do not.
pub fn check(input: &[u8]) {
    let Ok(index) = Index::parse(input) else { return };
    assert_eq!(index.to_bytes(), input);
    let max = u64::from(index.parameters().max());
    let mut end = 0;
    for part in index.parts() {
        assert_eq!(part.offset, end);
        assert!((1..=max).contains(&part.size));
        end += part.size;
        let path = part.id.path();
        let (directory, name) = path.split_once('/').expect("a directory");
        assert!(name.starts_with(directory) && directory.len() == 4 && !path.contains(".."), "{path}");
        assert_eq!(ChunkId::of_file_name(name), Some(part.id));
    }
    assert_eq!(index.size(), end);
    // The index's own bytes are no file that it describes, except none.
    let mut matcher = Matcher::new(&index);
    matcher.update(input);
    assert!(!matcher.finish());
}
