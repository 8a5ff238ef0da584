//! `parallax chunk`.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Context as _;
use parallax_format::digest::ImageId;
use parallax_store::Store;
use serde::Serialize;

use super::each::each;
use super::find::find;
use crate::chunk_push;
use crate::chunking::{Chunked, Chunking};
use crate::global::Global;
use crate::interrupt;
use crate::output::print_json;
use crate::progress::Progress;
use crate::source::{Access, Repository};
use crate::units;
use crate::whole_files;

/// Options of `parallax chunk`.
#[expect(clippy::struct_excessive_bools, reason = "options that do not depend on one another")]
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Images to cut into chunks: names, digests or ids
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Write all chunks and indexes again, also those that exist: repairs what parallax verify reports
    #[arg(long)]
    again: bool,
    /// Then remove the SquashFS files, except those that other images need: nodes without parallax-lazy cannot use the images any more
    #[arg(long)]
    chunks_only: bool,
    /// Make the SquashFS files of images again that are in the store in chunks only
    #[arg(long, conflicts_with_all = ["again", "chunks_only"])]
    whole: bool,
    /// Then push the chunks to the repository of a registry that has the image: docker://HOST/NAME:TAG, or docker://HOST/NAME if it has the
    /// manifest that was migrated. Nodes read them there (docs/lazy.md); the image is not changed
    #[arg(long, value_name = "REPOSITORY", conflicts_with = "whole")]
    push: Option<String>,
    #[command(flatten)]
    access: PushAccess,
    /// Number of threads that compress chunks [default: number of processors]
    #[arg(long, value_name = "N")]
    processors: Option<NonZeroUsize>,
    /// Print a JSON array with one object for each image
    #[arg(long)]
    json: bool,
}

/// Options for access to the registry of `--push`.
#[derive(Debug, clap::Args)]
struct PushAccess {
    /// Verify the registry's certificate
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, requires = "push")]
    tls_verify: bool,
    /// File with credentials for registries [default: the file that podman login writes]
    #[arg(long, value_name = "FILE", requires = "push")]
    authfile: Option<PathBuf>,
    /// Directory with certificates for the registry, as that of parallax migrate [default: /etc/containers/certs.d]
    #[arg(long, value_name = "DIR", requires = "push")]
    cert_dir: Option<PathBuf>,
}

/// Result of one image in the JSON form. Future versions only add fields.
#[derive(Debug, Serialize)]
struct Outcome {
    /// The image as given.
    image: String,
    /// The image id.
    id: ImageId,
    #[serde(flatten)]
    chunked: Chunked,
}

/// Runs the command.
///
/// # Errors
/// If any image could not be chunked; the others have been.
pub(crate) fn run(global: &Global, options: &Options) -> anyhow::Result<()> {
    let store = Store::open(&global.existing_store()?)?;
    interrupt::watch()?;
    let progress = Progress::new(global, options.json);
    if options.whole {
        return each(&options.images, "made whole", |image| {
            let id = find(&store, image)?.id;
            let files = whole_files::restore(&store, &id, &progress)?;
            if files == 0 {
                progress.line(&format!("{image}: no layer is in chunks only, nothing to do ({})", id.short()));
            }
            Ok(())
        });
    }
    let repository = options.repository()?;
    let chunking = Chunking::new(&store, &progress, options.processors, options.again);
    let mut outcomes = Vec::new();
    let mut chunked = BTreeSet::new();
    let done = each(&options.images, "chunked", |image| {
        let id = find(&store, image)?.id;
        let outcome = Outcome { image: image.to_owned(), id, chunked: chunking.image(&id)? };
        progress.image(&outcome.sentence(), &outcome);
        outcomes.push(outcome);
        chunked.insert(id);
        let Some(repository) = &repository else { return Ok(()) };
        let done = chunk_push::push(&store, &id, repository, &progress).context("its chunks cannot be pushed")?;
        progress.line(&format!("{image}: {done} ({})", id.short()));
        Ok(())
    });
    let removed = if options.chunks_only { whole_files::remove(&store, &chunked, &progress) } else { Ok(()) };
    if options.json {
        print_json(&outcomes)?;
    }
    done.and(removed)
}

impl Options {
    /// Returns the repository to which chunks are pushed, if one is given.
    fn repository(&self) -> anyhow::Result<Option<Repository>> {
        let PushAccess { tls_verify, authfile, cert_dir } = &self.access;
        let access = Access {
            tls_verify: *tls_verify,
            authfile: authfile.clone(),
            cert_dir: cert_dir.clone(),
            ..Access::default()
        };
        self.push.as_ref().map(|text| Repository::parse(text, access)).transpose()
    }
}

impl Outcome {
    fn sentence(&self) -> String {
        format!("{}: {} ({})", self.image, sentence(&self.chunked), self.id.short())
    }
}

/// Describes what was done with an image.
pub(super) fn sentence(chunked: &Chunked) -> String {
    let Chunked { files, new_files, chunks, new_chunks, new_stored } = *chunked;
    let layers = units::count(files, "layer");
    if new_files == 0 {
        return format!("{layers} already in chunks, nothing to do");
    }
    let count = |chunks| units::count(usize::try_from(chunks).unwrap_or(usize::MAX), "chunk");
    let (chunks, new_chunks, stored) = (count(chunks), count(new_chunks), units::bytes(new_stored));
    format!("{layers} in {chunks}, {new_files} new; {new_chunks} and {stored} added")
}
