//! The test images in the cluster's store.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context as _;

use crate::cluster::{Cluster, Done, repository};

/// The images that tests use; `numpy` is the big one, which only some need.
pub const IMAGES: [&str; 4] = ["debian", "python", "static", "layers40"];

/// Makes test images (`tests/images/build`) that are not there yet.
///
/// # Errors
/// What the script said.
pub fn build(names: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(repository().join("tests/images/build")).args(names).stdin(Stdio::null()).output()?;
    Done::from(output).success().context("tests/images/build").map(drop)
}

/// Where a test image's OCI layout lies.
#[must_use]
pub fn layout(name: &str) -> PathBuf {
    repository().join("target/images").join(name)
}

/// Migrates a test image into the cluster's store under its own name.
///
/// # Errors
/// What `parallax migrate` said.
pub fn migrate(cluster: &Cluster, name: &str) -> anyhow::Result<Done> {
    let source = format!("oci:/images/{name}");
    cluster.run("ctl", "root", &["parallax", "migrate", &source, "--name", name])?.success()
}
