//! The names of a layer: directories, whiteouts, and all others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use super::below::{Below, Shape};
use super::emit::{Emitter, Sink};
use super::owners::OwnersSeen;
use super::resolve::Step;
use crate::content::FileId;
use crate::error::EntryError;
use crate::path::LayerPath;
use crate::tar::entry::{Kind, Meta};
use crate::tar::limits::{Allowance, Limits};

/// Prefix of a whiteout before the name that it hides.
const WHITEOUT: &[u8] = b".wh.";
/// Name of the file that hides the content of its directory in the layers below.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Prefix of other names that aufs reserved; they are not content.
const AUFS: &[u8] = b".wh..wh.";
/// The attributes of an opaque directory in overlayfs: mounted by root, and in a user namespace.
const OPAQUE_XATTRS: [&[u8]; 2] = [b"trusted.overlay.opaque", b"user.overlay.opaque"];

/// The role of an entry in a layer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Root,
    Directory,
    /// A file of another kind.
    Leaf,
    /// Hides this path in the layers below.
    Whiteout(LayerPath),
    /// Hides the content of this directory in the layers below.
    Opaque(LayerPath),
    /// Not content.
    None,
}

impl Role {
    pub(crate) fn of(path: &LayerPath, kind: &Kind) -> Result<Self, EntryError> {
        let name = path.file_name();
        if path.is_root() {
            return if *kind == Kind::Dir { Ok(Self::Root) } else { Err(EntryError::RootNotDirectory) };
        }
        if name == OPAQUE {
            return Ok(Self::Opaque(path.parent().unwrap_or_else(LayerPath::root)));
        }
        if name.starts_with(AUFS) || path.top().starts_with(AUFS) {
            return Ok(Self::None);
        }
        match name.strip_prefix(WHITEOUT) {
            Some(b"" | b"." | b"..") => Err(EntryError::EmptyWhiteout),
            Some(hidden) => Ok(Self::Whiteout(path.sibling(hidden))),
            None if *kind == Kind::Dir => Ok(Self::Directory),
            None => Ok(Self::Leaf),
        }
    }
}

/// Returns the attributes of directories without an entry, the root included.
pub(crate) fn default_directory() -> Meta {
    Meta { mode: 0o755, ..Meta::default() }
}

/// The names of a layer.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The root's own entry, if it has one.
    pub(crate) root: Option<Meta>,
    /// Directories; `None` for those without an entry (yet).
    pub(crate) directories: BTreeMap<LayerPath, Option<Meta>>,
    /// Files of other kinds, with their hash once they have been written.
    pub(crate) leaves: HashMap<LayerPath, FileId>,
    /// The targets of those leaves that are symbolic links.
    pub(crate) links: HashMap<LayerPath, Box<[u8]>>,
    pub(crate) whiteouts: BTreeSet<LayerPath>,
    pub(crate) opaque: BTreeSet<LayerPath>,
    /// Remaining limit for directories without an entry.
    parents_left: Allowance,
}

impl Layout {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            root: None,
            directories: BTreeMap::new(),
            leaves: HashMap::new(),
            links: HashMap::new(),
            whiteouts: BTreeSet::new(),
            opaque: BTreeSet::new(),
            parents_left: Allowance::new(limits),
        }
    }

    /// Looks a path up among the entries so far.
    pub(crate) fn look(&self, path: &LayerPath) -> Step<'_> {
        if self.directories.contains_key(path) {
            return Step::Directory;
        }
        self.links.get(path).map_or(Step::Other, |target| Step::Link(target))
    }

    /// Counts the growth of an entry's names by following links, in bytes.
    pub(crate) fn note_growth(&mut self, bytes: usize) -> Result<(), EntryError> {
        self.parents_left.take_more(bytes)
    }

    /// Adds the directories above `path` that have no entry yet.
    pub(crate) fn note_parents(&mut self, path: &LayerPath) -> Result<(), EntryError> {
        for directory in path.ancestors() {
            if self.directories.contains_key(&directory) {
                break;
            }
            if self.leaves.contains_key(&directory) {
                return Err(EntryError::ParentNotDirectory(directory.to_string()));
            }
            self.parents_left.take(directory.as_bytes())?;
            self.directories.insert(directory, None);
        }
        Ok(())
    }

    /// Adds a directory whose content in lower layers is hidden.
    pub(crate) fn note_opaque(&mut self, directory: LayerPath) -> Result<(), EntryError> {
        if directory.is_root() {
            self.opaque.insert(directory);
            return Ok(());
        }
        if self.leaves.contains_key(&directory) {
            return Err(EntryError::ParentNotDirectory(directory.to_string()));
        }
        self.note_parents(&directory)?;
        self.directories.entry(directory.clone()).or_insert(None);
        self.opaque.insert(directory);
        Ok(())
    }

    /// Returns the directories that the layer leaves to the layers below, and those that it hides.
    fn shape(&self) -> Shape {
        let text = |path: &LayerPath| std::str::from_utf8(path.as_bytes()).ok().map(str::to_owned);
        let hides = |path: &LayerPath| self.whiteouts.contains(path) || self.opaque.contains(path);
        // Below a hidden directory lower layers have nothing.
        let is_left = |path: &LayerPath| !self.whiteouts.contains(path) && !path.ancestors().any(|above| hides(&above));
        let all_hidden = self.opaque.contains(&LayerPath::root());
        let implied = self.directories.iter().filter(|(path, meta)| !all_hidden && meta.is_none() && is_left(path));
        let opaque =
            self.opaque.iter().chain(self.whiteouts.iter().filter(|path| self.directories.contains_key(*path)));
        Shape {
            implied: implied.filter_map(|(path, _)| text(path)).collect(),
            root: self.root.as_ref().map(Into::into),
            opaque: opaque.filter_map(text).collect(),
        }
    }

    /// Writes the directories and whiteouts, which were kept until the end.
    pub(crate) fn write<W: Sink>(
        mut self,
        to: &mut Emitter<W>,
        below: Option<&Below>,
        owners: &mut OwnersSeen,
    ) -> io::Result<Shape> {
        let shape = self.shape();
        if shape.hides_all() {
            let names = below.into_iter().flat_map(|below| &below.names);
            self.whiteouts.extend(names.filter_map(|name| LayerPath::of_entry(name).ok()));
        }
        for whiteout in std::mem::take(&mut self.whiteouts) {
            if self.leaves.contains_key(&whiteout) {
                // The layer's own file of this name hides the layers below.
                continue;
            }
            if self.directories.contains_key(&whiteout) {
                self.opaque.insert(whiteout);
                continue;
            }
            to.entry(&whiteout, &Kind::Char(0, 0), &Meta::default())?;
        }
        for (path, meta) in self.directories {
            let from_below = || below.and_then(|below| below.directory(&path));
            let mut meta = meta.or_else(from_below).unwrap_or_else(default_directory);
            owners.count(&meta);
            if self.opaque.contains(&path) {
                meta.xattrs.extend(OPAQUE_XATTRS.iter().map(|name| (name.to_vec(), b"y".to_vec())));
            }
            to.entry(&path, &Kind::Dir, &meta)?;
        }
        Ok(shape)
    }
}
