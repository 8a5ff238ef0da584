//! Looks up an image of the store by a command's argument.

use anyhow::{bail, ensure};
use parallax_format::digest::{Digest, ImageId};
use parallax_format::record::ImageRecord;
use parallax_format::{ImageName, ImageRef, nearest, unknown_image};
use parallax_store::{Store, read};

/// Minimum number of digits of an abbreviated id: fewer might be a name.
const SHORTEST_ID: usize = 3;

/// An image that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its id.
    pub id: ImageId,
    /// The name by which the image was found; none for an id or a digest.
    pub name: Option<ImageName>,
}

/// Finds the image that `text` means: a name, a digest, an id or the start of one.
///
/// # Errors
/// If the image is not found, with the nearest names, or the start of an id is ambiguous.
pub(crate) fn find(store: &Store, text: &str) -> anyhow::Result<Found> {
    if let Some(found) = find_if_there(store, text)? {
        return Ok(found);
    }
    let listing = read::list(store.root())?;
    let unpacked = listing.unpacked.into_iter().flat_map(|image| image.names);
    let known: Vec<ImageName> = listing.images.into_iter().flat_map(|image| image.names).chain(unpacked).collect();
    bail!(unknown_image(text, &[store.root().display().to_string()], &nearest(text, &known)))
}

/// As [`find`], with `None` if there is no such image.
///
/// # Errors
/// If `text` is invalid, or the start of an id is ambiguous.
pub(crate) fn find_if_there(store: &Store, text: &str) -> anyhow::Result<Option<Found>> {
    match indexed(store, text)? {
        None => foreign(store, text),
        found => Ok(found),
    }
}

/// An image that another tool brought: it is in no index.
fn foreign(store: &Store, text: &str) -> anyhow::Result<Option<Found>> {
    let reference = ImageRef::parse(text)?;
    let images = store.foreign_images()?;
    let best = images.iter().filter_map(|image| Some((image.fits(&reference)?, image))).min_by_key(|(fit, _)| *fit);
    if let Some((fit, image)) = best {
        let name = match reference {
            ImageRef::Name(names) => names.into_iter().nth(fit),
            _ => None,
        };
        return Ok(ImageId::parse(&image.id).map(|id| Found { id, name }));
    }
    let ids = images.iter().filter_map(|image| ImageId::parse(&image.id));
    one(text, ids.filter(|id| is_start(text) && id.starts_with(text)).collect())
}

fn indexed(store: &Store, text: &str) -> anyhow::Result<Option<Found>> {
    Ok(match ImageRef::parse(text)? {
        ImageRef::Name(names) => {
            let named = |name: ImageName| store.id_of_name(&name).map(|id| Found { id, name: Some(name) });
            match names.into_iter().find_map(named) {
                None => by_start(store, text)?,
                found => found,
            }
        }
        ImageRef::Digest(digest) => store.id_of_digest(&digest).map(|id| Found { id, name: None }),
        ImageRef::Id(id) => match by_start(store, &id)? {
            // What was typed may be a digest without its algorithm.
            None => store.id_of_digest(&Digest::from(id)).map(|id| Found { id, name: None }),
            found => found,
        },
    })
}

fn by_start(store: &Store, text: &str) -> anyhow::Result<Option<Found>> {
    one(text, if is_start(text) { store.ids_with(text)? } else { Vec::new() })
}

fn is_start(text: &str) -> bool {
    text.len() >= SHORTEST_ID && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn one(text: &str, mut ids: Vec<ImageId>) -> anyhow::Result<Option<Found>> {
    ensure!(ids.len() < 2, "{text} is the start of {} image ids; give more digits", ids.len());
    Ok(ids.pop().map(|id| Found { id, name: None }))
}

/// Returns the record of an image; for another tool's image a record made from Podman's lists.
///
/// # Errors
/// If it is not found, or corrupt.
pub(crate) fn record(store: &Store, id: &ImageId) -> anyhow::Result<(ImageRecord, bool)> {
    match store.record(id)? {
        Some(record) => Ok((record, false)),
        None => Ok((store.foreign_image(id)?, true)),
    }
}
