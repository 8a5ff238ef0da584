//! `parallax migrate`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, bail, ensure};
use parallax_format::{ImageName, LayerFormat};
use parallax_layers::MkfsErofs;
use parallax_store::Store;
use serde::Serialize;

use super::adopt;
use super::chunk;
use super::each::each;
use crate::chunking::{Chunked, Chunking};
use crate::global::{Global, LogFormat};
use crate::interrupt;
use crate::migration::{Brought, Migration, SettingsOptions};
use crate::output::print_json;
use crate::progress::Progress;
use crate::source::{Access, Reference, Source, candidates, look_up_local, own_names, several};
use crate::units;
use crate::whole_files;

/// Upper limit of sources open at once, independent of the machine: each needs a skopeo process.
const MAX_OPEN: usize = 8;

/// Options of `parallax migrate`.
#[expect(clippy::struct_excessive_bools, reason = "options that do not depend on one another")]
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Images to migrate: docker://NAME, containers-storage:NAME, oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE, dir:DIR, or
    /// a NAME, which is resolved as by podman pull
    #[arg(required_unless_present = "adopt", value_name = "SOURCE")]
    #[allow(rustdoc::broken_intra_doc_links, reason = "the text is the command's help, and [:TAG] is no link")]
    sources: Vec<String>,
    /// Adopt images that podman-hpc or the Go tool left in the store: bring them up to the full format without converting
    /// them. SOURCEs are then names, digests or ids [default: all]
    #[arg(long, conflicts_with_all = ["name", "authfile"])]
    adopt: bool,
    /// Name to store the image under [default: the source's name]
    #[arg(long)]
    name: Option<String>,
    /// Merge all layers of an image into one
    #[arg(long)]
    flatten: bool,
    /// Also cut the layers of each image into chunks, as parallax chunk does
    #[arg(long, conflicts_with = "adopt")]
    chunked: bool,
    /// Keep the chunks only: SquashFS files are removed, except those that other images need, and nodes without parallax-lazy cannot
    /// use the images. Migrating again without this option makes the files again
    #[arg(long, requires = "chunked")]
    chunks_only: bool,
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    settings: SettingsOptions,
    /// Print a JSON array with one object for each source
    #[arg(long)]
    json: bool,
}

/// Result of one source in the JSON form. Future versions only add fields.
#[derive(Debug, Serialize)]
struct Outcome {
    /// The source as given.
    source: String,
    /// The name the image is stored under, the first of several.
    name: String,
    /// All names the source gave the image.
    names: Vec<String>,
    #[serde(flatten)]
    brought: Brought,
    /// Result of --chunked.
    #[serde(skip_serializing_if = "Option::is_none")]
    chunked: Option<Chunked>,
}

/// A source, the references it may stand for, and the names of its image if already known.
struct Order<'a> {
    text: &'a str,
    candidates: Vec<Reference>,
    names: Vec<ImageName>,
}

/// Runs the command.
///
/// # Errors
/// If any source could not be migrated; the others have been.
pub(crate) fn run(global: &Global, options: &Options) -> anyhow::Result<()> {
    if options.adopt {
        return adopt::run(global, &options.sources, options.json);
    }
    let sources = sources(&options.sources);
    ensure!(
        options.name.is_none() || sources.len() == 1,
        "--name needs a single source, but there are several: {}",
        sources.join(", ")
    );
    let settings = options.settings.settings()?;
    if settings.formats.contains(&LayerFormat::Erofs) {
        // Refused before anything is fetched.
        MkfsErofs::find()?;
    }
    let mut orders: BTreeMap<&str, anyhow::Result<Order<'_>>> =
        sources.iter().map(|text| (text.as_str(), order(global, text, options))).collect();
    refuse_equal_names(&orders)?;
    let store = Store::create_or_open(&global.store()?)?;
    interrupt::watch()?;
    let progress = Progress::new(global, options.json);
    if parallax_store::has_locks(store.root()).is_ok_and(|has_locks| !has_locks) {
        progress.line("the store's file system has no locks: writers use the lock file parallax/lock; run parallax doctor for details");
    }
    let migration = Migration::new(&store, settings, &progress);
    let chunking = options.chunked.then(|| Chunking::new(&store, &progress, Some(settings.squashfs.processors), false));
    let queue: Vec<Order<'_>> = orders.values_mut().filter_map(take).collect();
    let work = |order: Order<'_>| migrate(&migration, chunking.as_ref(), order, options, &progress);
    let mut results = in_parallel(queue, settings.jobs.min(MAX_OPEN), work);

    let mut outcomes = Vec::new();
    let chunked =
        results.values().flatten().filter(|outcome| outcome.chunked.is_some()).map(|outcome| outcome.brought.id);
    let removed = if options.chunks_only { whole_files::remove(&store, &chunked.collect(), &progress) } else { Ok(()) };
    let done = each(&sources, "migrated", |text| match results.remove(text) {
        Some(result) => result.map(|outcome| outcomes.push(outcome)),
        None => orders.remove(text).map_or(Ok(()), |order| order.map(drop)),
    });
    if options.json {
        print_json(&outcomes)?;
    }
    done.and(removed)
}

/// Returns the sources, with an archive of several images split. An archive that cannot be read stays one source: skopeo reports
/// the error.
fn sources(given: &[String]) -> Vec<String> {
    let pieces = |text: &String| {
        let reference = Reference::parse(text).ok().flatten();
        reference.and_then(|reference| several(&reference).ok()).unwrap_or_default()
    };
    let of_one = |text: &String| {
        let pieces = pieces(text);
        if pieces.is_empty() { vec![text.clone()] } else { pieces }
    };
    given.iter().flat_map(of_one).collect()
}

fn order<'a>(global: &Global, text: &'a str, options: &Options) -> anyhow::Result<Order<'a>> {
    let mut candidates = candidates(text, !global.quiet && global.log_format == LogFormat::Text)?;
    let mut names = Vec::new();
    if let [only] = &mut candidates[..] {
        if let Some(local) = look_up_local(only, &options.access)? {
            *only = only.with_image(&local.source);
            names = local.names;
        }
    }
    if let Some(name) = &options.name {
        names = vec![ImageName::for_storing(name)?];
    }
    if let ([only], true) = (&candidates[..], names.is_empty()) {
        names = names_of(only)?;
    }
    Ok(Order { text, candidates, names })
}

/// Returns the names of a source's image: its own, or else the name derived from the source.
fn names_of(reference: &Reference) -> anyhow::Result<Vec<ImageName>> {
    let own = own_names(reference).unwrap_or_else(|error| {
        tracing::warn!("{}: cannot read the names in it: {error}", reference.text);
        Vec::new()
    });
    if own.is_empty() { Ok(vec![reference.default_name()?]) } else { Ok(own) }
}

/// Takes an order out of a success; leaves an error in place.
fn take<'a>(order: &mut anyhow::Result<Order<'a>>) -> Option<Order<'a>> {
    let order = order.as_mut().ok()?;
    Some(Order {
        text: order.text,
        candidates: std::mem::take(&mut order.candidates),
        names: std::mem::take(&mut order.names),
    })
}

/// Refuses two sources with the same name: which one got it would depend on timing.
fn refuse_equal_names(orders: &BTreeMap<&str, anyhow::Result<Order<'_>>>) -> anyhow::Result<()> {
    let mut names: BTreeMap<&ImageName, &str> = BTreeMap::new();
    for order in orders.values().flatten() {
        for name in &order.names {
            if let Some(other) = names.insert(name, order.text) {
                bail!(
                    "{other} and {} would both be stored under one name, {name}; migrate them one by one with --name",
                    order.text
                );
            }
        }
    }
    Ok(())
}

/// Runs `work` on several orders in parallel and returns the results by source.
fn in_parallel<'a>(
    orders: Vec<Order<'a>>,
    workers: usize,
    work: impl Fn(Order<'a>) -> anyhow::Result<Outcome> + Sync,
) -> BTreeMap<&'a str, anyhow::Result<Outcome>> {
    let workers = workers.min(orders.len());
    let queue = Mutex::new(orders.into_iter());
    let results = Mutex::new(BTreeMap::new());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let worker = || {
        while let Some(order) = next() {
            let (text, result) = (order.text, work(order));
            results.lock().unwrap_or_else(PoisonError::into_inner).insert(text, result);
        }
    };
    thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(worker))));
    results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn migrate(
    migration: &Migration<'_>,
    chunking: Option<&Chunking<'_>>,
    order: Order<'_>,
    options: &Options,
    progress: &Progress,
) -> anyhow::Result<Outcome> {
    let Order { text, candidates, names } = order;
    let trying = |next: &Reference| progress.line(&format!("{text}: trying {}", next.rest));
    let (source, reference) = Source::open_first(candidates, &options.access, trying)?;
    let names = if names.is_empty() { names_of(&reference)? } else { names };
    let [name, others @ ..] = &names[..] else { bail!("the image has no name; specify one with --name NAME") };
    let bring = if options.flatten { Migration::bring_flat } else { Migration::bring };
    let mut brought = bring(migration, &source, name)?;
    brought.unchanged &= !migration.also_name(brought.id, others)?;
    if !options.chunks_only {
        brought.unchanged &= whole_files::restore(migration.store(), &brought.id, progress)? == 0;
    }
    for warning in &brought.warnings {
        tracing::warn!("{name}: {warning}");
    }
    let names = names.iter().map(ToString::to_string).collect();
    let chunked = chunking.map(|chunking| chunking.image(&brought.id)).transpose();
    let chunked = chunked.with_context(|| format!("{name} was migrated and is usable, but not in chunks"))?;
    let outcome = Outcome { source: text.to_owned(), name: name.to_string(), names, brought, chunked };
    progress.image(&outcome.sentence(), &outcome);
    Ok(outcome)
}

impl Outcome {
    fn sentence(&self) -> String {
        let Brought { id, layers, new_layers, new_stored, unchanged, .. } = &self.brought;
        let (name, id) = (self.names.join(", "), id.short());
        let chunked = self.chunked.as_ref().map_or(String::new(), |chunked| format!("; {}", chunk::sentence(chunked)));
        if *unchanged {
            return format!("{name}: already in the store ({id}), nothing to do{chunked}");
        }
        let stored = units::bytes(*new_stored);
        let layers = units::count(*layers, "layer");
        format!("{name}: migrated ({id}), {layers}, {new_layers} new, {stored} added{chunked}")
    }
}
