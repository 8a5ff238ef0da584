//! Reading of a layer's entries: normalizes names, follows links, and filters owners and attributes.

use std::collections::BTreeSet;
use std::io::Read;

use super::below::Shape;
use super::layout::Role;
use super::owners::{Owners, OwnersSeen};
use super::resolve::{Step, resolve};
use crate::content::Content;
use crate::error::EntryError;
use crate::path::{LayerPath, printable};
use crate::tar::entry::{Entry, Kind, Meta, TarError};
use crate::tar::reader::TarReader;

/// The attribute namespaces that SquashFS can store.
const XATTR_NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
/// Attributes that would change the overlay in which the layer is mounted.
const OVERLAY_XATTRS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// Findings of a pass over a layer.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) owners: OwnersSeen,
    pub(crate) shape: Shape,
    /// Names of dropped attributes, escaped for a terminal.
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

/// Returns the next entry with its normalized name, in which symbolic links are not followed yet.
pub(crate) fn next_entry<R: Read>(
    tar: &mut TarReader<'_, R>,
    seen: &mut Seen,
) -> Result<Option<(Entry, LayerPath)>, TarError> {
    let Some(mut entry) = tar.next()? else { return Ok(None) };
    let path = LayerPath::of_entry(&entry.name).and_then(|path| check_links(&mut entry.kind).map(|()| path));
    let path = path.map_err(|error| TarError::refuse(&entry.name, error))?;
    seen.take_in(&path, &mut entry.meta);
    if path.is_root() {
        // mksquashfs makes the root itself, without extended attributes.
        let names = std::mem::take(&mut entry.meta.xattrs);
        seen.dropped_xattrs.extend(names.iter().map(|(name, _)| format!("{} of /", printable(name))));
    }
    Ok(Some((entry, path)))
}

/// An entry's place in its layer.
pub(crate) struct Place {
    pub(crate) path: LayerPath,
    pub(crate) role: Role,
    /// Growth of its names by following links, in bytes.
    pub(crate) grown: usize,
}

/// Returns the place of an entry in the layer. `look` looks a path up in the layer so far.
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
    const MAX_TARGET: usize = 4095;
    match kind {
        Kind::HardLink(target) => *target = LayerPath::of_entry(target)?.as_bytes().to_vec(),
        Kind::Symlink(target) if target.is_empty() => return Err(EntryError::NoTarget),
        Kind::Symlink(target) if target.contains(&0) => return Err(EntryError::Nul),
        Kind::Symlink(target) if target.len() > MAX_TARGET => return Err(EntryError::TooLong),
        _ => {}
    }
    Ok(())
}
