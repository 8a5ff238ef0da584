//! `parallax migrate`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{bail, ensure};
use parallax_names::ImageName;
use parallax_store::Store;
use serde::Serialize;

use super::{adopt, all, print_json};
use crate::cli::{Global, LogFormat};
use crate::interrupt;
use crate::migration::{Brought, Migration, SettingsOptions};
use crate::progress::Progress;
use crate::source::{Access, Reference, Source, candidates};
use crate::units;

/// The most sources that are open at once, whatever the machine has: each takes a skopeo.
const MOST_OPEN: usize = 8;

/// What `parallax migrate` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The images: docker://NAME, containers-storage:NAME, oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE, dir:DIR, or
    /// a NAME, which means what it means to podman pull
    #[arg(required_unless_present = "adopt", value_name = "SOURCE")]
    sources: Vec<String>,
    /// Bring images that podman-hpc or the Go tool left in the store up to the full format, without converting them;
    /// names, digests or ids in place of sources [default: all]
    #[arg(long, conflicts_with_all = ["name", "authfile"])]
    adopt: bool,
    /// The name to store the image under [default: that of the source]
    #[arg(long)]
    name: Option<String>,
    /// Make one layer of all layers of an image
    #[arg(long)]
    flatten: bool,
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    settings: SettingsOptions,
    /// Print a JSON array instead, one object for a source
    #[arg(long)]
    json: bool,
}

/// What became of one source, in the JSON form. Fields are only ever added.
#[derive(Debug, Serialize)]
struct Outcome {
    /// The source as given.
    source: String,
    /// The name the image is stored under.
    name: String,
    #[serde(flatten)]
    brought: Brought,
}

/// A source, what it may stand for, and the name its image gets if that is known already.
struct Order<'a> {
    text: &'a str,
    candidates: Vec<Reference>,
    name: Option<ImageName>,
}

/// Runs the command.
///
/// # Errors
/// If any source could not be migrated; the others have been.
pub fn run(global: &Global, options: &Options) -> anyhow::Result<()> {
    if options.adopt {
        return adopt::run(global, &options.sources, options.json);
    }
    ensure!(options.name.is_none() || options.sources.len() == 1, "--name can name only one image; give one source");
    let settings = options.settings.settings()?;
    let mut orders: BTreeMap<&str, anyhow::Result<Order<'_>>> =
        options.sources.iter().map(|text| (text.as_str(), order(global, text, options.name.as_deref()))).collect();
    refuse_equal_names(&orders)?;
    let store = Store::create_or_open(&global.store()?)?;
    interrupt::watch()?;
    let progress = Progress::new(global, options.json);
    if parallax_store::has_locks(store.root()).is_ok_and(|has_locks| !has_locks) {
        progress.line("the store's file system has no locks: writers take turns by the file parallax/lock; parallax doctor says more");
    }
    let migration = Migration::new(&store, settings, &progress);
    let queue: Vec<Order<'_>> = orders.values_mut().filter_map(take).collect();
    let work = |order: Order<'_>| migrate(&migration, order, options, &progress);
    let mut results = in_parallel(queue, settings.jobs.min(MOST_OPEN), work);

    let mut outcomes = Vec::new();
    let done = all(&options.sources, "migrated", |text| match results.remove(text) {
        Some(result) => result.map(|outcome| outcomes.push(outcome)),
        None => orders.remove(text).map_or(Ok(()), |order| order.map(drop)),
    });
    if options.json {
        print_json(&outcomes)?;
    }
    done
}

fn order<'a>(global: &Global, text: &'a str, name: Option<&str>) -> anyhow::Result<Order<'a>> {
    let candidates = candidates(text, !global.quiet && global.log_format == LogFormat::Text)?;
    let name = match name {
        Some(name) => Some(ImageName::for_storing(name)?),
        None => candidates.first().filter(|_| candidates.len() == 1).map(Reference::default_name).transpose()?,
    };
    Ok(Order { text, candidates, name })
}

/// Takes an order that can be carried out, and leaves the error of one that can't.
fn take<'a>(order: &mut anyhow::Result<Order<'a>>) -> Option<Order<'a>> {
    let order = order.as_mut().ok()?;
    Some(Order { text: order.text, candidates: std::mem::take(&mut order.candidates), name: order.name.take() })
}

/// Which of two sources came last would be a matter of chance.
fn refuse_equal_names(orders: &BTreeMap<&str, anyhow::Result<Order<'_>>>) -> anyhow::Result<()> {
    let mut names: BTreeMap<&ImageName, &str> = BTreeMap::new();
    for order in orders.values().flatten() {
        if let Some(other) = order.name.as_ref().and_then(|name| names.insert(name, order.text)) {
            bail!(
                "{other} and {} would both be stored under one name; migrate them one by one with --name",
                order.text
            );
        }
    }
    Ok(())
}

/// Does the work on several orders at once, and returns what came of each.
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
    order: Order<'_>,
    options: &Options,
    progress: &Progress,
) -> anyhow::Result<Outcome> {
    let Order { text, candidates, name } = order;
    let trying = |next: &Reference| progress.line(&format!("{text}: trying {}", next.rest));
    let (source, reference) = Source::open_first(candidates, &options.access, trying)?;
    let name = name.map_or_else(|| reference.default_name(), Ok)?;
    let bring = if options.flatten { Migration::bring_flat } else { Migration::bring };
    let brought = bring(migration, &source, &name)?;
    let outcome = Outcome { source: text.to_owned(), name: name.to_string(), brought };
    progress.image(&outcome.sentence(), &outcome);
    Ok(outcome)
}

impl Outcome {
    fn sentence(&self) -> String {
        let Brought { id, layers, new_layers, new_stored, unchanged, .. } = &self.brought;
        let (name, id) = (&self.name, id.get(..12).unwrap_or(id));
        if *unchanged {
            return format!("{name}: already in the store ({id}), nothing to do");
        }
        let stored = units::bytes(*new_stored);
        let layers = units::count(*layers, "layer");
        format!("{name}: migrated ({id}), {layers}, {new_layers} new, {stored} added")
    }
}
