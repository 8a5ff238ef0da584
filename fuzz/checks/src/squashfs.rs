//! What of a layer's files is read without mounting them: the superblock of its SquashFS file, and its description.

use parallax_format::squashfs::Superblock;
use parallax_store::LayerFile;

/// Any bytes are no superblock, or say how many of them there must be; a description that can be read comes back as it was.
///
/// # Panics
/// If it is not so.
pub fn check(input: &[u8]) {
    if let Some(superblock) = Superblock::parse(input) {
        assert!(input.len() as u64 >= Superblock::BYTES && input.starts_with(b"hsqs"));
        assert_eq!(superblock.bytes_used.to_le_bytes(), input[40..48]);
        assert_eq!(Superblock::parse(&input[..96]), Some(superblock));
    }
    if let Ok(file) = serde_json::from_slice::<LayerFile>(input) {
        let bytes = serde_json::to_vec(&file).expect("a description");
        assert_eq!(serde_json::from_slice::<LayerFile>(&bytes).ok(), Some(file));
    }
}
