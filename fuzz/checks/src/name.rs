//! Image names, as users type them.

use parallax_format::{ImageName, ImageRef, IndexPath};

/// Any text is refused, or is a name that reads back as itself and whose entry in a store is one file of its directory.
///
/// # Panics
/// If it does not.
pub fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let _ = ImageRef::parse(&text);
    for name in [ImageName::for_storing(&text), ImageName::from_registry(&text)].into_iter().flatten() {
        assert_eq!(ImageName::for_storing(&name.to_string()).as_ref(), Ok(&name));
        let Some(entry) = IndexPath::name(&name) else { continue };
        let file = entry.strip_prefix(IndexPath::names_directory()).and_then(|rest| rest.strip_prefix('/'));
        assert!(
            file.is_some_and(|file| !file.contains('/') && file != "." && file != ".." && file.len() <= 255),
            "{entry}"
        );
    }
}
