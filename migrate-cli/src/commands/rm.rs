//! `parallax rm` and `parallax tag`.

use std::path::Path;

use parallax_format::ImageName;
use parallax_format::digest::ImageId;
use parallax_format::layout::CHUNK_INDEX;
use parallax_store::{Garbage, Removed, Store, Target};
use serde::Serialize;

use super::each::each;
use super::find::{find, find_if_there};
use crate::chunking::own_record;
use crate::global::Global;
use crate::output::{print, print_json};
use crate::units;

/// Options of `parallax rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Images to remove. A name removes that name, and the image with its last name; an id or digest removes the image
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Remove an image even if it is in use on nodes, and by id or digest even if it has several names; ignore images that do
    /// not exist
    #[arg(short, long)]
    force: bool,
    /// Print a JSON array with one object for each image
    #[arg(long)]
    json: bool,
}

/// Options of `parallax tag`.
#[derive(Debug, clap::Args)]
pub(crate) struct TagOptions {
    /// Image: name, digest or id
    image: String,
    /// Name to add. Another image with this name loses it
    name: String,
}

/// Result of one image in the JSON form. Future versions only add fields.
#[derive(Debug, Serialize)]
struct Outcome {
    /// The image as given.
    image: String,
    /// The image id.
    id: ImageId,
    /// The names that were removed, fully qualified.
    untagged: Vec<String>,
    /// `true` if the image itself was removed.
    removed: bool,
    /// Space in bytes that becomes free on the store's file system: SquashFS files with `parallax gc`, after the retention time.
    /// Chunks are not counted.
    freed: u64,
    /// `true` if layers that were removed have chunks, which `parallax gc` removes unless other layers share them.
    chunked: bool,
}

/// Runs `parallax rm`.
///
/// # Errors
/// If an image does not exist or cannot be removed; the others have been removed.
pub(crate) fn run(global: &Global, options: &Options) -> anyhow::Result<()> {
    let store = Store::open(&global.existing_store()?)?;
    let mut outcomes = Vec::new();
    let done = each(&options.images, "removed", |image| {
        let Some(outcome) = remove(&store, image, options.force)? else { return Ok(()) };
        if !global.quiet && !options.json {
            print(&outcome.text())?;
        }
        outcomes.push(outcome);
        Ok(())
    });
    if options.json {
        print_json(&outcomes)?;
    }
    done
}

fn remove(store: &Store, image: &str, force: bool) -> anyhow::Result<Option<Outcome>> {
    // As podman rmi --force.
    let found = if force { find_if_there(store, image)? } else { Some(find(store, image)?) };
    let Some(found) = found else { return Ok(None) };
    let target = found.name.map_or(Target::Image(found.id), Target::Name);
    let Removed { id, names, image: gone } = store.remove(&target, force)?;
    let freed = gone.iter().flatten().map(|garbage| garbage.bytes).sum();
    let is_index = |garbage: &Garbage| Path::new(&garbage.path).extension().is_some_and(|kind| kind == CHUNK_INDEX);
    let chunked = gone.iter().flatten().any(is_index);
    Ok(Some(Outcome { image: image.to_owned(), id, untagged: names, removed: gone.is_some(), freed, chunked }))
}

impl Outcome {
    fn text(&self) -> String {
        let untagged = self.untagged.iter().map(|name| format!("untagged {name}"));
        let (id, size) = (self.id.short(), units::bytes(self.freed));
        let chunks = if self.chunked { " and chunks that no other layer has" } else { "" };
        let removed = self.removed.then(|| format!("removed {id}, parallax gc will free {size}{chunks}"));
        untagged.chain(removed).map(|line| line + "\n").collect()
    }
}

/// Runs `parallax tag`.
///
/// # Errors
/// If the image does not exist or the name cannot be stored.
pub(crate) fn tag(global: &Global, options: &TagOptions) -> anyhow::Result<()> {
    let name = ImageName::for_storing(&options.name)?;
    let store = Store::open(&global.existing_store()?)?;
    let found = find(&store, &options.image)?;
    own_record(&store, &found.id)?;
    store.tag(&found.id, &name)?;
    if !global.quiet {
        print(&format!("{name}: now names {}\n", found.id.short()))?;
    }
    Ok(())
}
