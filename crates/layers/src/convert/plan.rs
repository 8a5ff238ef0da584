//! The remaining entries of a layer in which later entries replace earlier ones.
//!
//! Such layers are rare. They are read twice more, once to find the entries that remain after extraction, once to write them,
//! so that no layer has to be kept.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;

use super::entries::{Place, Seen, next_entry, place_of};
use super::layout::{Layout, Role};
use super::owners::Owners;
use super::resolve::Step;
use crate::content::FileId;
use crate::error::EntryError;
use crate::path::{LayerPath, printable, remove_below};
use crate::tar::entry::{Entry, Kind, Meta, TarError};
use crate::tar::limits::{Allowance, Limits};
use crate::tar::reader::TarReader;

/// The result of extracting a layer.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The remaining names of an entry's content, by the entry's index.
    pub(crate) names: HashMap<u64, Vec<LayerPath>>,
    /// The directories and whiteouts, which are written after the files.
    pub(crate) layout: Layout,
}

#[derive(Debug)]
enum Node {
    Directory(Option<Meta>),
    /// The index of the entry with the content, and the target of a symbolic link.
    Leaf(u64, Option<Box<[u8]>>),
}

/// The names at a point of the extraction.
#[derive(Debug)]
struct Tree {
    nodes: BTreeMap<LayerPath, Node>,
    /// Remaining limit for directories without an entry.
    parents_left: Allowance,
}

impl Plan {
    /// Returns the first name and the hard links of the content of entry `index`; `None` if none remains.
    pub(crate) fn names(&self, index: u64) -> Option<(&LayerPath, &[LayerPath])> {
        self.names.get(&index)?.split_first()
    }

    /// Reads a layer to its end.
    pub(crate) fn make<R: Read>(tar: &mut TarReader<'_, R>, limits: Limits, owners: Owners) -> Result<Self, TarError> {
        let mut tree = Tree { nodes: BTreeMap::new(), parents_left: Allowance::new(limits) };
        let mut layout = Layout::new(limits);
        while let Some((mut entry, path)) = next_entry(tar, &mut Seen::new(owners))? {
            let name = entry.name.clone();
            let applied = place_of(&mut entry, path, |path| tree.look(path))
                .and_then(|place| tree.parents_left.take_more(place.grown).map(|()| place))
                .and_then(|Place { path, role, .. }| tree.apply(entry, path, role, &mut layout));
            applied.map_err(|error| TarError::refuse(&name, error))?;
        }
        tar.drain()?;
        let mut names: HashMap<u64, Vec<LayerPath>> = HashMap::new();
        for (path, node) in tree.nodes {
            match node {
                Node::Directory(meta) => {
                    layout.directories.insert(path, meta);
                }
                Node::Leaf(index, _) => {
                    layout.leaves.insert(path.clone(), FileId::default());
                    names.entry(index).or_default().push(path);
                }
            }
        }
        // Whiteouts inside a directory that was replaced later are gone.
        let mut whiteouts = std::mem::take(&mut layout.whiteouts);
        whiteouts.retain(|path| !path.ancestors().any(|dir| layout.leaves.contains_key(&dir)));
        layout.whiteouts = whiteouts;
        Ok(Self { names, layout })
    }
}

impl Tree {
    fn look(&self, path: &LayerPath) -> Step<'_> {
        match self.nodes.get(path) {
            Some(Node::Directory(_)) => Step::Directory,
            Some(Node::Leaf(_, Some(target))) => Step::Link(target),
            _ => Step::Other,
        }
    }

    fn apply(&mut self, entry: Entry, path: LayerPath, role: Role, layout: &mut Layout) -> Result<(), EntryError> {
        match role {
            Role::None => {}
            Role::Root => layout.root = Some(entry.meta),
            Role::Whiteout(hidden) => {
                self.add_parents(&hidden)?;
                layout.whiteouts.insert(hidden);
            }
            Role::Opaque(directory) if directory.is_root() => drop(layout.opaque.insert(directory)),
            Role::Opaque(directory) => {
                self.add_parents(&directory)?;
                self.nodes.entry(directory.clone()).or_insert(Node::Directory(None));
                layout.opaque.insert(directory);
            }
            Role::Directory => {
                self.add_parents(&path)?;
                self.nodes.insert(path, Node::Directory(Some(entry.meta)));
            }
            Role::Leaf => {
                self.add_parents(&path)?;
                let leaf = match entry.kind {
                    Kind::HardLink(target) => match self.nodes.get(&target[..]) {
                        Some(Node::Leaf(content, link)) => Node::Leaf(*content, link.clone()),
                        _ => return Err(EntryError::HardLinkTarget(printable(&target))),
                    },
                    Kind::Symlink(target) => Node::Leaf(entry.index, Some(target.into())),
                    _ => Node::Leaf(entry.index, None),
                };
                remove_below(&mut self.nodes, &path);
                self.nodes.insert(path, leaf);
            }
        }
        Ok(())
    }

    fn add_parents(&mut self, path: &LayerPath) -> Result<(), EntryError> {
        for directory in path.ancestors() {
            match self.nodes.get(&directory) {
                Some(Node::Directory(_)) => break,
                Some(Node::Leaf(..)) => return Err(EntryError::ParentNotDirectory(directory.to_string())),
                None => {
                    self.parents_left.take(directory.as_bytes())?;
                    self.nodes.insert(directory, Node::Directory(None))
                }
            };
        }
        Ok(())
    }
}
