//! The record of an image, which nodes read as root.

use parallax_format::record::ImageRecord;

/// Any bytes are refused, or are a record that comes back as it was written and in which nothing leads out of the store.
///
/// # Panics
/// If they do not.
pub fn check(input: &[u8]) {
    let Ok(record) = ImageRecord::parse(input) else { return };
    assert_eq!(ImageRecord::parse(&record.to_bytes()).ok().as_ref(), Some(&record));
    for layer in &record.layers {
        let path = layer.file_path();
        assert!(!path.contains("..") && !path.starts_with('/'), "{path}");
        assert!(!layer.link.as_str().contains(['/', '.']), "{record:?}");
    }
}
