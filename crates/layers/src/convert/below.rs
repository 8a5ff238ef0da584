//! What of a layer depends on the layers below it.
//!
//! A layer may have entries below a directory that no entry of it describes, `tmp/link` without `tmp`. In an overlay the
//! upper layer's directory decides, so such an *implied* directory must have the attributes that the layers below give it.
//! And overlayfs takes no notice of an opaque root, so there the names below must be hidden one by one.

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
    /// What a directory has of which no layer says anything: 0755, root's.
    fn default() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0 }
    }
}

impl From<&Meta> for Attributes {
    fn from(meta: &Meta) -> Self {
        Self { mode: meta.mode, uid: meta.uid, gid: meta.gid }
    }
}

/// What a layer leaves to the layers below, and what it hides of them. Paths have no slash at their beginning; the empty one
/// is the root. Those that are not UTF-8 are left out: they are directories of mode 0755.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    /// Directories that no entry describes and that the layer does not hide below, without the root.
    pub implied: Vec<String>,
    /// The attributes of the root, if an entry describes it.
    pub root: Option<Attributes>,
    /// Directories in which the layer hides all that is below.
    pub opaque: Vec<String>,
}

impl Shape {
    /// Whether the layer hides all layers below.
    #[must_use]
    pub fn hides_all(&self) -> bool {
        self.opaque.iter().any(String::is_empty)
    }
}

/// What the layers below have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Below {
    /// The attributes of directories that the layer only implies, where they are others than [`Attributes::default`].
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
