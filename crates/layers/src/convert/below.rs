//! Properties of a layer that depend on the layers below it.
//!
//! A layer may have entries in a directory for which it has no entry, `tmp/link` without `tmp`. In an overlay the
//! upper layer's directory decides, so such an *implied* directory must have its attributes of the layers below.
//! overlayfs ignores an opaque root, so the names below an opaque root must be hidden one by one.

use std::collections::{BTreeMap, BTreeSet};

use crate::path::LayerPath;
use crate::tar::entry::Meta;

/// Mode and owner of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// The owner's user id.
    pub uid: u32,
    /// The owner's group id.
    pub gid: u32,
}

impl Default for Attributes {
    /// The attributes of a directory without an entry in any layer: 0755, owned by root.
    fn default() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0 }
    }
}

impl From<&Meta> for Attributes {
    fn from(meta: &Meta) -> Self {
        Self { mode: meta.mode, uid: meta.uid, gid: meta.gid }
    }
}

/// The directories that a layer leaves to the layers below, and those that it hides. Paths have no leading slash; the empty path
/// is the root. Paths that are not UTF-8 are left out: such directories get mode 0755.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    /// Directories without an entry that the layer does not hide, without the root.
    pub implied: Vec<String>,
    /// The attributes of the root, if it has an entry.
    pub root: Option<Attributes>,
    /// Directories whose content in lower layers is hidden.
    pub opaque: Vec<String>,
}

impl Shape {
    /// Returns `true` if the layer hides all layers below.
    #[must_use]
    pub fn hides_all(&self) -> bool {
        self.opaque.iter().any(String::is_empty)
    }
}

/// Properties of the layers below.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Below {
    /// The attributes of implied directories that differ from [`Attributes::default`].
    pub directories: BTreeMap<String, Attributes>,
    /// The names in the root that an opaque root hides.
    pub names: BTreeSet<Vec<u8>>,
}

impl Below {
    pub(crate) fn directory(&self, path: &LayerPath) -> Option<Meta> {
        let Attributes { mode, uid, gid } = *self.directories.get(std::str::from_utf8(path.as_bytes()).ok()?)?;
        Some(Meta { mode, uid, gid, ..Meta::default() })
    }
}
