//! From a layer's tar stream to the one for sqfstar.

use std::collections::BTreeSet;
use std::io::{self, Read};

use crate::below::{Below, Shape};
use crate::content::{Content, FileId};
use crate::emit::{Emitter, Sink};
use crate::error::{ArchiveError, ConvertError, EntryError};
use crate::layout::{Layout, Role, default_directory};
use crate::limits::Limits;
use crate::owners::{Owners, OwnersSeen};
use crate::path::{LayerPath, printable};
use crate::plan::Plan;
use crate::resolve::{Step, resolve};
use crate::tar::{Entry, Kind, Meta, TarError, TarReader};

/// The attribute namespaces that SquashFS can hold.
const XATTR_NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
/// Attributes that would steer the overlay in which the layer is mounted.
const OVERLAY_XATTRS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// Why rewriting stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// An entry replaces an earlier one, or the root's entry came too late: the stream must be read again with a
    /// [`Plan`].
    NeedsPlan,
    /// sqfstar stopped reading; it says why.
    Sink(io::Error),
    /// Anything else.
    Failed(ConvertError),
}

impl From<TarError> for Stop {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Read(error) => Self::Failed(ConvertError::Read(error)),
            TarError::Archive(error) => Self::Failed(ConvertError::Archive(error)),
            TarError::Write(error) => Self::Sink(error),
        }
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Sink(error)
    }
}

impl From<ConvertError> for Stop {
    fn from(error: ConvertError) -> Self {
        Self::Failed(error)
    }
}

impl Stop {
    /// The error it comes to where no plan can help.
    pub(crate) fn into_error(self) -> ConvertError {
        match self {
            Self::Failed(error) => error,
            Self::Sink(error) => error.downcast().unwrap_or_else(ConvertError::Write),
            // A plan is never asked for twice.
            Self::NeedsPlan => ConvertError::Write(io::Error::other("the layer changed while it was read")),
        }
    }
}

/// What a layer becomes, apart from what it holds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rules<'a> {
    pub(crate) limits: Limits,
    pub(crate) owners: Owners,
    /// What the layers below have, if that is to be taken into account.
    pub(crate) below: Option<&'a Below>,
}

/// What was learnt on the way.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) owners: OwnersSeen,
    pub(crate) shape: Shape,
    /// Names of attributes that were left out, for people.
    pub(crate) dropped_xattrs: BTreeSet<String>,
    pub(crate) content: Content,
}

impl Seen {
    pub(crate) fn new(owners: Owners) -> Self {
        Self { owners: OwnersSeen::new(owners), ..Self::default() }
    }

    fn take_in(&mut self, path: &LayerPath, meta: &mut Meta) {
        self.owners.take_in(path, meta);
        meta.xattrs.retain(|(name, _)| {
            let keep = XATTR_NAMESPACES.iter().any(|prefix| name.starts_with(prefix))
                && !OVERLAY_XATTRS.iter().any(|prefix| name.starts_with(prefix));
            if !keep {
                self.dropped_xattrs.insert(printable(name));
            }
            keep
        });
    }
}

/// The next entry with its cleaned name, in which symbolic links are not followed yet.
pub(crate) fn next_entry<R: Read>(
    tar: &mut TarReader<'_, R>,
    seen: &mut Seen,
) -> Result<Option<(Entry, LayerPath)>, TarError> {
    let Some(mut entry) = tar.next()? else { return Ok(None) };
    let path = LayerPath::of_entry(&entry.name).and_then(|path| check_links(&mut entry.kind).map(|()| path));
    let path = path.map_err(|error| refuse(&entry.name, error))?;
    seen.take_in(&path, &mut entry.meta);
    if path.is_root() {
        // sqfstar makes the root itself and gives it no attributes.
        let names = std::mem::take(&mut entry.meta.xattrs);
        seen.dropped_xattrs.extend(names.iter().map(|(name, _)| format!("{} of /", printable(name))));
    }
    Ok(Some((entry, path)))
}

/// An entry's place in its layer.
pub(crate) struct Place {
    pub(crate) path: LayerPath,
    pub(crate) role: Role,
    /// How many bytes following links has added to its names.
    pub(crate) grown: usize,
}

/// The place of an entry in the layer, of which `look` tells what it has so far.
pub(crate) fn place_of<'a>(
    entry: &mut Entry,
    path: LayerPath,
    look: impl Fn(&LayerPath) -> Step<'a>,
) -> Result<Place, EntryError> {
    let before = path.as_bytes().len();
    let path = resolve(path, &look)?;
    let mut grown = path.as_bytes().len().saturating_sub(before);
    if let Kind::HardLink(target) = &mut entry.kind {
        let resolved = resolve(LayerPath::of_entry(target)?, &look)?.as_bytes().to_vec();
        grown += resolved.len().saturating_sub(target.len());
        *target = resolved;
    }
    let role = Role::of(&path, &entry.kind)?;
    Ok(Place { path, role, grown })
}

fn check_links(kind: &mut Kind) -> Result<(), EntryError> {
    const LONGEST_TARGET: usize = 4095;
    match kind {
        Kind::HardLink(target) => *target = LayerPath::of_entry(target)?.as_bytes().to_vec(),
        Kind::Symlink(target) if target.is_empty() => return Err(EntryError::NoTarget),
        Kind::Symlink(target) if target.contains(&0) => return Err(EntryError::Nul),
        Kind::Symlink(target) if target.len() > LONGEST_TARGET => return Err(EntryError::TooLong),
        _ => {}
    }
    Ok(())
}

pub(crate) fn refuse(name: &[u8], error: EntryError) -> TarError {
    TarError::Archive(ArchiveError::Entry { name: printable(name), error })
}

/// Passes a layer on entry by entry. `start` opens what is written to, given the attributes of the root.
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
        let Place { path, role, .. } = counted.map_err(|error| refuse(&entry.name, error))?;
        if role == Role::Root {
            // The root's attributes are fixed when sqfstar starts.
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
    seen.shape = layout.write(&mut to, rules.below, &mut seen)?;
    tar.drain()?;
    let (to, content) = to.finish()?;
    Ok((to, Seen { content, ..seen }))
}

/// Notes an entry's name and says whether it is to be written now.
fn place(layout: &mut Layout, entry: &Entry, path: &LayerPath, role: Role) -> Result<bool, Stop> {
    let refused = |error| Stop::from(refuse(&entry.name, error));
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

/// Passes a layer on as a plan made from the same stream says.
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
            write_names(&mut to, first, links, &entry, tar)?;
        }
    }
    seen.shape = plan.layout.write(&mut to, rules.below, &mut seen)?;
    tar.drain()?;
    let (to, content) = to.finish()?;
    Ok((to, Seen { content, ..seen }))
}

/// Writes an entry under all the names that are left of it.
pub(crate) fn write_names<R: Read, W: Sink>(
    to: &mut Emitter<W>,
    first: &LayerPath,
    links: &[LayerPath],
    entry: &Entry,
    tar: &mut TarReader<'_, R>,
) -> Result<(), Stop> {
    let id = to.leaf(first, &entry.kind, &entry.meta, tar)?;
    for link in links {
        to.link(link, first.as_bytes(), &entry.meta, id);
    }
    Ok(())
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
pub(crate) mod tests;
