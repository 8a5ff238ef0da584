//! Rewrites a layer's tar stream for mksquashfs.

use std::io::{self, Read};

use super::below::Below;
use super::emit::{Emitter, Sink};
use super::entries::{Place, Seen, next_entry, place_of};
use super::layout::{Layout, Role, default_directory};
use super::owners::Owners;
use super::plan::Plan;
use crate::content::FileId;
use crate::error::{ConvertError, EntryError};
use crate::path::{LayerPath, printable};
use crate::tar::entry::{Entry, Kind, Meta, TarError};
use crate::tar::limits::Limits;
use crate::tar::reader::TarReader;

/// The reason why rewriting stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// An entry replaces an earlier one, or the root's entry came late: the stream must be read again with a [`Plan`].
    NeedsPlan,
    /// An error.
    Failed(ConvertError),
}

impl From<ConvertError> for Stop {
    fn from(error: ConvertError) -> Self {
        Self::Failed(error)
    }
}

impl From<TarError> for Stop {
    fn from(error: TarError) -> Self {
        Self::Failed(error.into())
    }
}

impl Stop {
    /// Returns the error if no plan can help.
    pub(crate) fn into_error(self) -> ConvertError {
        match self {
            Self::Failed(error) => error,
            // With a plan no other plan is needed.
            Self::NeedsPlan => ConvertError::Write(io::Error::other("the layer changed while it was read")),
        }
    }
}

/// Parameters of rewriting.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rules<'a> {
    pub(crate) limits: Limits,
    pub(crate) owners: Owners,
    /// Properties of the layers below, if relevant.
    pub(crate) below: Option<&'a Below>,
}

/// Rewrites a layer entry by entry. `start` opens the destination, given the attributes of the root.
pub(crate) fn rewrite<R: Read, W: Sink>(
    tar: &mut TarReader<'_, R>,
    rules: Rules<'_>,
    start: impl FnOnce(&Meta) -> Result<W, ConvertError>,
) -> Result<(W, Seen), Stop> {
    let mut seen = Seen::new(rules.owners);
    let mut layout = Layout::new(rules.limits);
    let mut start = Some(start);
    let mut emitter = None;
    while let Some((mut entry, path)) = next_entry(tar, &mut seen)? {
        let place_of = place_of(&mut entry, path, |path| layout.look(path));
        let counted = place_of.and_then(|place| layout.note_growth(place.grown).map(|()| place));
        let Place { path, role, .. } = counted.map_err(|error| TarError::refuse(&entry.name, error))?;
        if role == Role::Root {
            // The root's attributes are fixed when mksquashfs starts.
            let late = emitter.is_some() && layout.root.as_ref() != Some(&entry.meta);
            layout.root = Some(entry.meta);
            if late {
                return Err(Stop::NeedsPlan);
            }
            continue;
        }
        if !place(&mut layout, &entry, &path, role)? {
            continue;
        }
        let to = match &mut emitter {
            Some(to) => to,
            None => emitter.insert(begin(&mut start, &layout, rules)?),
        };
        let id = match &entry.kind {
            Kind::HardLink(target) => {
                let id = layout.leaves.get(&target[..]).copied().unwrap_or_default();
                to.link(&path, target, &entry.meta, id);
                id
            }
            kind => to.leaf(&path, kind, &entry.meta, tar)?,
        };
        layout.leaves.insert(path, id);
    }
    let mut to = match emitter {
        Some(to) => to,
        None => begin(&mut start, &layout, rules)?,
    };
    seen.shape = layout.write(&mut to, rules.below, &mut seen.owners).map_err(ConvertError::of_write)?;
    tar.drain()?;
    let (to, content) = to.finish().map_err(ConvertError::of_write)?;
    Ok((to, Seen { content, ..seen }))
}

/// Adds an entry's name to the layout. Returns `true` if the entry must be written now.
fn place(layout: &mut Layout, entry: &Entry, path: &LayerPath, role: Role) -> Result<bool, Stop> {
    let refused = |error| Stop::from(TarError::refuse(&entry.name, error));
    match role {
        Role::Root | Role::None => Ok(false),
        Role::Whiteout(hidden) => {
            layout.note_parents(&hidden).map_err(refused)?;
            layout.whiteouts.insert(hidden);
            Ok(false)
        }
        Role::Opaque(directory) => layout.note_opaque(directory).map_err(refused).map(|()| false),
        Role::Directory => {
            if layout.leaves.contains_key(path) {
                return Err(Stop::NeedsPlan);
            }
            layout.note_parents(path).map_err(refused)?;
            layout.directories.insert(path.clone(), Some(entry.meta.clone()));
            Ok(false)
        }
        Role::Leaf => {
            if layout.directories.contains_key(path) || layout.leaves.contains_key(path) {
                return Err(Stop::NeedsPlan);
            }
            layout.note_parents(path).map_err(refused)?;
            let link = match &entry.kind {
                Kind::HardLink(target) if !layout.leaves.contains_key(&target[..]) => {
                    return Err(refused(EntryError::HardLinkTarget(printable(target))));
                }
                Kind::HardLink(target) => layout.links.get(&target[..]).cloned(),
                Kind::Symlink(target) => Some(target.clone().into()),
                _ => None,
            };
            if let Some(target) = link {
                layout.links.insert(path.clone(), target);
            }
            layout.leaves.insert(path.clone(), FileId::default());
            Ok(true)
        }
    }
}

/// Rewrites a layer by a plan made from the same stream.
pub(crate) fn rewrite_planned<R: Read, W: Sink>(
    tar: &mut TarReader<'_, R>,
    plan: Plan,
    rules: Rules<'_>,
    start: impl FnOnce(&Meta) -> Result<W, ConvertError>,
) -> Result<(W, Seen), Stop> {
    let mut seen = Seen::new(rules.owners);
    let mut to = begin(&mut Some(start), &plan.layout, rules)?;
    while let Some((entry, _)) = next_entry(tar, &mut seen)? {
        if let Some((first, links)) = plan.names(entry.index) {
            to.names(first, links, &entry, tar)?;
        }
    }
    seen.shape = plan.layout.write(&mut to, rules.below, &mut seen.owners).map_err(ConvertError::of_write)?;
    tar.drain()?;
    let (to, content) = to.finish().map_err(ConvertError::of_write)?;
    Ok((to, Seen { content, ..seen }))
}

fn begin<W: Sink, F: FnOnce(&Meta) -> Result<W, ConvertError>>(
    start: &mut Option<F>,
    layout: &Layout,
    rules: Rules<'_>,
) -> Result<Emitter<W>, Stop> {
    let Some(start) = start.take() else { return Err(Stop::NeedsPlan) };
    let root = match &layout.root {
        Some(root) => root.clone(),
        None => rules.below.and_then(|below| below.directory(&LayerPath::root())).unwrap_or_else(default_directory),
    };
    Ok(Emitter::new(start(&root)?, &root))
}

#[cfg(test)]
mod accepted_tests;
#[cfg(test)]
mod tests;
