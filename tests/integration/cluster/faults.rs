//! Every fault that a step and its node must survive. Each is a test: the user sees a sentence that says what happened, no step
//! waits longer than its deadline, and afterwards nothing is left on any node and Slurm has both idle.

use std::fs;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, Done};
use integration_tests::runner::Need;

use super::with_file;
use crate::shown;

mod agent;
mod ends;
mod load;
mod node;
mod podman;
mod start;
mod store;
mod store_hangs;
mod trace;

/// A fault. Its test tells what the user saw.
#[derive(Clone, Copy)]
pub(crate) struct Fault {
    /// Path of its function, with this program's own name.
    pub path: &'static str,
    /// What it needs.
    pub need: Need,
    /// What is done, for the table.
    pub what: &'static str,
    /// Does it, and makes sure of what the user sees.
    pub test: fn(&Cluster) -> anyhow::Result<String>,
}

impl Fault {
    /// The test's name.
    pub(crate) fn name(&self) -> String {
        shown(self.path)
    }
}

/// Lists a module's faults, by a variant of [`Need`], their functions and what is done.
macro_rules! faults {
    ($need:ident: $($test:ident = $what:literal),+ $(,)?) => {
        pub(crate) const FAULTS: &[crate::cluster::faults::Fault] = &[$(crate::cluster::faults::Fault {
            path: concat!(module_path!(), "::", stringify!($test)),
            need: integration_tests::runner::Need::$need,
            what: $what,
            test: $test,
        }),+];
    };
}
use faults;

/// All of them, in the order of the table.
pub(crate) fn all() -> impl Iterator<Item = &'static Fault> {
    [
        ends::FAULTS,
        start::FAULTS,
        agent::FAULTS,
        node::FAULTS,
        store::FAULTS,
        store_hangs::FAULTS,
        podman::FAULTS,
        load::FAULTS,
    ]
    .into_iter()
    .flatten()
}

const CONFIG: &str = "/etc/parallax/parallax.toml";

/// Makes sure that a command failed, and returns the line of what it said in which all these parts are.
fn failed_saying(done: &Done, parts: &[&str]) -> anyhow::Result<String> {
    ensure!(done.code != 0, "it did not fail: {done:?}");
    said(done, parts)
}

/// The line of what a command said in which all these parts are, without srun's preface.
fn said(done: &Done, parts: &[&str]) -> anyhow::Result<String> {
    let line = done.stderr.lines().find(|line| parts.iter().all(|part| line.contains(part)));
    let line = line.with_context(|| format!("no line with {parts:?} in {done:?}"))?;
    Ok(line.trim_start_matches("srun: error: ").to_owned())
}

/// Makes sure that the failure was told once, however many tasks there were.
fn failed_saying_once(done: &Done, parts: &[&str]) -> anyhow::Result<String> {
    let count = done.stderr.lines().filter(|line| line.contains("parallax: ")).count();
    ensure!(count == 1, "Parallax said {count} things, not one: {done:?}");
    failed_saying(done, parts)
}

/// Runs `body` while n1 has this configuration and an agent that was started with it.
fn with_config(
    cluster: &Cluster,
    config: &str,
    body: impl FnOnce() -> anyhow::Result<String>,
) -> anyhow::Result<String> {
    let mut seen = String::new();
    with_file(cluster, "n1", CONFIG, Some(config), || {
        restart_agent(cluster)?;
        seen = body()?;
        Ok(())
    })
    .and(restart_agent(cluster))?;
    Ok(seen)
}

fn restart_agent(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.service("n1", "stop", "agent")?;
    cluster.service("n1", "start", "agent")
}

/// The SquashFS file of the last layer of an image in the cluster's store.
fn last_layer(cluster: &Cluster, image: &str) -> anyhow::Result<std::path::PathBuf> {
    let store = cluster.shared().join("store/parallax");
    let record = fs::read(store.join(format!("names/localhost%2F{image}:latest")))?;
    let record: serde_json::Value = serde_json::from_slice(&record)?;
    let layers = record["layers"].as_array().context("no layers")?;
    let layer = layers.last().and_then(|layer| layer["diff_id"].as_str()).context("no layer")?;
    Ok(store.join(format!("layers/{layer}.squash")))
}
