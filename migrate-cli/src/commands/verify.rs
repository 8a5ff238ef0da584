//! `parallax verify`.

use std::collections::BTreeMap;

use anyhow::ensure;
use parallax_format::LayerFormat;
use parallax_format::digest::ImageId;
use parallax_format::record::LayerRecord;
use parallax_layers::{ConvertError, content_digest};
use parallax_store::{Problem, Store, Verifier};
use serde::Serialize;
use tempfile::NamedTempFile;

use super::find::find;
use crate::global::Global;
use crate::output::{print, print_json};
use crate::units;

pub(super) mod trees;

/// Remedy for a file with the wrong content.
const REPLACE: &str = "remove the file and migrate an image that has the layer again";

/// Options of `parallax verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Images to check: names, digests or ids [default: all images and the index]
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Also compare the content of SquashFS files with that of the layers at conversion (needs sqfs2tar); with --trees, search unpacked
    /// layers for whiteouts
    #[arg(long)]
    deep: bool,
    /// Check the images of the configuration's repositories of unpacked images instead of a store's
    #[arg(long)]
    trees: bool,
    /// Print a JSON array with one object for each problem
    #[arg(long)]
    json: bool,
}

/// One problem in the JSON form. Future versions only add fields.
#[derive(Debug, Serialize)]
struct Row<'a> {
    /// The id of the image that has it; null for one of the index, or of a repository's lists.
    image: Option<ImageId>,
    /// The file, relative to the store; with --trees its path.
    path: &'a str,
    /// The problem.
    problem: &'a str,
    /// The remedy.
    remedy: &'a str,
}

/// Runs the command.
///
/// # Errors
/// If there is a problem, or the store cannot be read.
pub(crate) fn run(global: &Global, options: &Options) -> anyhow::Result<()> {
    if options.trees {
        let (images, problems) = trees::check(global, &options.images, options.deep)?;
        return report(global, options, images, &problems);
    }
    let store = Store::open(&global.existing_store()?)?;
    let mut verifier = Verifier::new(&store)?;
    let mut checked = check(&store, &mut verifier, &options.images);
    let mut problems = verifier.problems().to_vec();
    if checked.is_err() || !problems.is_empty() {
        // Writers may have changed the store meanwhile: only findings under the lock count.
        let believed = verifier.again()? || checked.is_err();
        checked = check(&store, &mut verifier, &options.images);
        let seen_before = |problem: &Problem| problems.contains(problem);
        let now = verifier.problems().iter().filter(|problem| believed || seen_before(problem));
        problems = now.cloned().collect();
    }
    let checked = checked?;
    drop(verifier);
    if options.deep {
        deep(&store, &checked.ids, &mut problems)?;
    }
    report(global, options, checked.ids.len() + checked.foreign, &problems)
}

/// Prints the problems that were found in a number of images.
fn report(global: &Global, options: &Options, images: usize, problems: &[Problem]) -> anyhow::Result<()> {
    if options.json {
        print_json(&problems.iter().map(row).collect::<Vec<_>>())?;
    } else {
        print(&problems.iter().map(line).collect::<String>())?;
    }
    let images = units::count(images, "image");
    ensure!(problems.is_empty(), "{} found in {images}", units::count(problems.len(), "problem"));
    if !options.json && !global.quiet {
        print(&format!("{images} verified, no problem found\n"))?;
    }
    Ok(())
}

/// The checked objects.
struct Checked {
    /// The ids of the images that have records.
    ids: Vec<ImageId>,
    /// Number of the other images.
    foreign: usize,
}

/// Checks some images, or all and the index.
fn check(store: &Store, verifier: &mut Verifier<'_>, images: &[String]) -> anyhow::Result<Checked> {
    let checked = if images.is_empty() {
        verifier.index()?;
        Checked { foreign: verifier.foreign()?, ids: store.ids_with("")? }
    } else {
        let ids = images.iter().map(|image| find(store, image).map(|found| found.id)).collect::<anyhow::Result<_>>()?;
        Checked { ids, foreign: 0 }
    };
    for id in &checked.ids {
        verifier.image(id)?;
    }
    Ok(checked)
}

/// Compares the content of each layer of these images, once, whose file is as it was written.
fn deep(store: &Store, ids: &[ImageId], problems: &mut Vec<Problem>) -> anyhow::Result<()> {
    let mut layers = BTreeMap::new();
    for id in ids {
        // Records that cannot be read are problems already.
        let record = store.record(id).ok().flatten();
        let of_record = record.into_iter().flat_map(|record| record.layers);
        layers.extend(of_record.map(|layer| (layer.file_path(), (layer, *id))));
    }
    let (mut unknown, mut erofs) = (0, 0);
    for (path, (layer, image)) in layers {
        if layer.format == LayerFormat::Erofs {
            erofs += 1;
            continue;
        }
        let is_about = |problem: &Problem| problem.path == path || problem.path == layer.chunk_index_path();
        if problems.iter().any(is_about) {
            continue;
        }
        let Some(expected) = content(store, &layer)? else {
            unknown += 1;
            continue;
        };
        let found = match made(store, &layer)? {
            Some(file) => content_digest(file.path()),
            None => content_digest(&store.root().join(&path)),
        };
        // A writer may have taken the layer away, and have brought it again.
        if content(store, &layer)?.as_ref() != Some(&expected) {
            continue;
        }
        let what = match found {
            Ok(found) if found == expected => continue,
            Ok(_) => "does not hold what the layer held".to_owned(),
            Err(error @ ConvertError::NoReader(_)) => return Err(error.into()),
            Err(error) => format!("cannot be unpacked: {error}"),
        };
        problems.push(Problem { image: Some(image), path, what, remedy: REPLACE });
    }
    if erofs > 0 {
        let layers = units::count(erofs, "layer");
        tracing::warn!("{layers} in EROFS alone: only the files were checked, against their recorded SHA-256");
    }
    if unknown > 0 {
        let layers = units::count(unknown, "layer");
        tracing::warn!(
            "{layers} came without a digest of the content, from an earlier version or another tool: only the files were checked"
        );
    }
    Ok(())
}

/// Makes the SquashFS file of a layer again that the store has in chunks alone.
fn made(store: &Store, layer: &LayerRecord) -> anyhow::Result<Option<NamedTempFile>> {
    if !store.is_in_chunks_only(layer)? {
        return Ok(None);
    }
    let file = NamedTempFile::new()?;
    store.make_file(&layer.chunk_index_path(), layer.squashfs_sha256, file.path())?;
    Ok(Some(file))
}

/// The recorded digest of what a layer's SquashFS file holds.
fn content(store: &Store, layer: &LayerRecord) -> anyhow::Result<Option<String>> {
    let described =
        if layer.sidecar { store.own_file(&layer.id)? } else { store.layer_in(&layer.diff_id, layer.format)? };
    Ok(described.and_then(|described| described.content))
}

fn row(problem: &Problem) -> Row<'_> {
    Row { image: problem.image, path: &problem.path, problem: &problem.what, remedy: problem.remedy }
}

fn line(problem: &Problem) -> String {
    let Problem { image, path, what, remedy } = problem;
    let image = image.map_or(String::new(), |id| format!("{}: ", id.short()));
    format!("{image}{path} {what}; {remedy}\n")
}
