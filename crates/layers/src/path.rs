//! Paths of a layer's entries, normalized so that no path can leave the layer.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::error::EntryError;

/// Maximum length of a path in bytes, without the final NUL (`PATH_MAX`).
const MAX_PATH: usize = 4095;
/// Maximum length of a file name in bytes (`NAME_MAX`).
const MAX_NAME: usize = 255;

/// A path inside a layer: components joined by single slashes, none of them empty, `.` or `..`; the root is empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LayerPath(Box<[u8]>);

impl LayerPath {
    /// Normalizes the name of an entry, or the target of a hard link, as containers/storage does: lexically, before any
    /// symbolic link is followed, and with the layer's root as `/` and as its own parent (it extracts in a chroot). So
    /// absolute names begin at the root, and `..` cannot lead out of it.
    pub(crate) fn of_entry(name: &[u8]) -> Result<Self, EntryError> {
        if name.len() > MAX_PATH {
            return Err(EntryError::TooLong);
        }
        if name.contains(&0) {
            return Err(EntryError::Nul);
        }
        let mut path = Vec::with_capacity(name.len());
        for component in name.split(|&b| b == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => {
                    let parent = path.iter().rposition(|&b| b == b'/').unwrap_or(0);
                    path.truncate(parent);
                    continue;
                }
                long if long.len() > MAX_NAME => return Err(EntryError::TooLong),
                _ => {}
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(component);
        }
        Ok(Self(path.into()))
    }

    pub(crate) fn root() -> Self {
        Self(Box::default())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the parent directory; `None` for the root.
    pub(crate) fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|&b| b == b'/').unwrap_or(0);
        Some(Self(self.0.get(..end).unwrap_or_default().into()))
    }

    /// Returns the parent directories, the nearest first, without the root.
    pub(crate) fn ancestors(&self) -> impl Iterator<Item = Self> + use<> {
        std::iter::successors(self.parent(), Self::parent).take_while(|dir| !dir.is_root())
    }

    /// Returns the last component; empty for the root.
    pub(crate) fn file_name(&self) -> &[u8] {
        self.0.rsplit(|&b| b == b'/').next().unwrap_or_default()
    }

    /// Returns the path of `name` in the same directory.
    pub(crate) fn sibling(&self, name: &[u8]) -> Self {
        let keep = self.0.len() - self.file_name().len();
        Self([self.0.get(..keep).unwrap_or_default(), name].concat().into())
    }

    /// Returns the path of `name` in this directory.
    pub(crate) fn child(&self, name: &[u8]) -> Self {
        if self.is_root() { Self(name.into()) } else { Self([&self.0, &b"/"[..], name].concat().into()) }
    }

    /// Returns the first component.
    pub(crate) fn top(&self) -> &[u8] {
        self.0.split(|&b| b == b'/').next().unwrap_or_default()
    }
}

impl std::borrow::Borrow<[u8]> for LayerPath {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Display for LayerPath {
    /// Writes the path with control characters and invalid UTF-8 escaped.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_root() { f.write_str("/") } else { f.write_str(&printable(&self.0)) }
    }
}

/// Returns bytes from an archive in a form that is safe on a terminal, shortened if necessary.
pub(crate) fn printable(bytes: &[u8]) -> String {
    const SHOWN: usize = 300;
    let cut = bytes.get(..SHOWN).unwrap_or(bytes);
    let mut text: String = cut.utf8_chunks().fold(String::new(), |mut text, chunk| {
        text.extend(chunk.valid().chars().flat_map(char::escape_debug));
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
        text
    });
    if bytes.len() > SHOWN {
        text.push('…');
    }
    text
}

/// Removes everything below a path, but not the path itself.
pub(crate) fn remove_below<T>(nodes: &mut BTreeMap<LayerPath, T>, path: &LayerPath) {
    let prefix = [path.as_bytes(), b"/"].concat();
    let below = nodes.range::<[u8], _>((Bound::Included(&prefix[..]), Bound::Unbounded));
    let gone: Vec<LayerPath> =
        below.map(|(name, _)| name).take_while(|name| name.as_bytes().starts_with(&prefix)).cloned().collect();
    for name in gone {
        nodes.remove(&name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(name: &[u8]) -> Vec<u8> {
        LayerPath::of_entry(name).unwrap().as_bytes().to_vec()
    }

    #[test]
    fn names_are_cleaned() {
        assert_eq!(clean(b"./a//b/./c/"), b"a/b/c");
        assert_eq!(clean(b"./"), b"");
        assert_eq!(clean(b"/"), b"");
        assert_eq!(clean(b"caf\xe9"), b"caf\xe9");
        assert_eq!(clean(b"..a/...b"), b"..a/...b");
        assert_eq!(clean(b"/etc//passwd"), b"etc/passwd");
        assert_eq!(clean(b"a/../b"), b"b");
        assert_eq!(clean(b"a/.."), b"");
    }

    #[test]
    fn no_name_leads_out_of_the_layer() {
        for name in [&b"../a"[..], b"/../a", b"b/../../a", b"../../../a", b"./../a/", b"b/c/../../../../a"] {
            assert_eq!(clean(name), b"a", "{}", printable(name));
        }
        assert_eq!(LayerPath::of_entry(b"a\0b"), Err(EntryError::Nul));
        assert_eq!(LayerPath::of_entry(&[b'a'; 256]), Err(EntryError::TooLong));
        assert_eq!(LayerPath::of_entry(&b"a/".repeat(3000)), Err(EntryError::TooLong));
    }

    #[test]
    fn parents_and_siblings() {
        let path = LayerPath::of_entry(b"a/b/c").unwrap();
        assert_eq!(path.parent().unwrap().as_bytes(), b"a/b");
        assert_eq!(path.sibling(b"x").as_bytes(), b"a/b/x");
        assert_eq!(path.file_name(), b"c");
        assert_eq!(path.top(), b"a");
        let top = LayerPath::of_entry(b"a").unwrap();
        assert!(top.parent().unwrap().is_root());
        assert_eq!(top.sibling(b"x").as_bytes(), b"x");
        assert_eq!(top.parent().unwrap().parent(), None);
    }

    #[test]
    fn what_is_printed_is_safe() {
        assert_eq!(printable(b"a\x1b[31m\xff\n"), "a\\u{1b}[31m\\xff\\n");
    }
}
