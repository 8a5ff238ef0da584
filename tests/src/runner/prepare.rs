//! What is done before the clock starts: programs, images, root file systems and clusters.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::cluster::{Cluster, Done, repository};
use crate::images;
use anyhow::Context as _;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::{Need, Test};

/// Fewer tests on a cluster than this are done before a second cluster would be up.
const FEW: usize = 16;

/// What the lanes run on. The clusters that were not up before are taken down with this value.
pub(super) struct Prepared {
    clusters: Vec<Cluster>,
    /// The signal that came, or 0.
    signal: Arc<AtomicUsize>,
}

impl Prepared {
    /// Builds and starts what these tests need; at most one cluster if `one_lane`.
    ///
    /// # Errors
    /// What failed, for the user.
    pub(super) fn new(tests: &[Test], one_lane: bool) -> Result<Self, String> {
        let count = |needs: &[Need]| tests.iter().filter(|test| needs.contains(&test.need)).count();
        let on_clusters = count(&[Need::Guest, Need::Cluster, Need::Alone]);
        if tests.iter().any(|test| test.name.starts_with("privileged::lazy::")) {
            build_worker().map_err(|error| format!("{error:#}"))?;
        }
        let names: &[&'static str] = match on_clusters {
            0 => &[],
            _ if one_lane || on_clusters < FEW => &[""],
            _ => &["", "second"],
        };
        prepare(names, count(&[Need::Guest]) > 0).map_err(|error| format!("{error:#}"))
    }

    /// The clusters, one for each lane that has one.
    pub(super) fn clusters(&self) -> &[Cluster] {
        &self.clusters
    }

    /// The signal by which the user ended the run, if they did.
    pub(super) fn interrupted(&self) -> Option<usize> {
        Some(self.signal.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }
}

fn prepare(names: &[&'static str], with_guests: bool) -> anyhow::Result<Prepared> {
    let signal = Arc::new(AtomicUsize::new(0));
    // Takes a minute if they are not there yet, most of which is downloading, so it goes on beside the builds.
    let guests = with_guests.then(Cluster::build_guests).transpose()?;
    if !names.is_empty() {
        for number in [SIGINT, SIGTERM, SIGHUP] {
            let value = usize::try_from(number)?;
            signal_hook::flag::register_usize(number, Arc::clone(&signal), value)
                .context("signals cannot be caught")?;
        }
        images::build(&[images::IMAGES.as_slice(), &images::IMAGES_OF_FEW].concat())?;
        build_debug_programs()?;
    }
    // The first builds what all share; the others come up side by side.
    let mut clusters = Vec::new();
    let mut rest = names.iter();
    clusters.extend(rest.next().map(|name| bring_up(name)).transpose()?);
    let others = thread::scope(|scope| {
        let starting: Vec<_> = rest.map(|name| scope.spawn(|| bring_up(name))).collect();
        starting
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("bringing up a cluster panicked"))?)
            .collect()
    });
    let others: anyhow::Result<Vec<Cluster>> = others;
    clusters.extend(others?);
    if let Some(guests) = guests {
        Done::from(guests.wait_with_output()?).success().context("the guests' root file systems")?;
    }
    Ok(Prepared { clusters, signal })
}

fn bring_up(name: &'static str) -> anyhow::Result<Cluster> {
    let cluster = Cluster::up_named(name)?;
    for image in images::IMAGES {
        images::migrate(&cluster, image)?;
    }
    Ok(cluster)
}

/// Builds the program that tests of this machine run as the agent's worker.
fn build_worker() -> anyhow::Result<()> {
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--locked", "--package", "parallax-lazy"]).current_dir(repository());
    Done::from(build.output()?).success().context("building parallax-lazy").map(drop)
}

/// Builds the programs that some tests run with debug assertions, which have points at which they can be killed.
fn build_debug_programs() -> anyhow::Result<()> {
    let packages = ["parallax-migrate-cli", "parallax-mount-program", "integration-tests"];
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--bins"])
        .args(packages.iter().flat_map(|package| ["--package", package]))
        .current_dir(repository())
        .output()?;
    Done::from(built).success().context("a build with debug assertions").map(drop)
}
