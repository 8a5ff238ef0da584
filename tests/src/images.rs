//! The test images in the cluster's store.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;

use crate::cluster::{Cluster, Done, repository};

/// The images that tests use, in the store of every cluster; `many` and `numpy` are large ones, which only some need.
pub const IMAGES: [&str; 5] = ["debian", "python", "static", "tiny", "layers40"];
/// Images that few tests use, who migrate them themselves.
pub const IMAGES_OF_FEW: [&str; 2] = ["openmpi", "mpich"];

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

/// An image's files as tools that are not Parallax's unpack them (`tests/images/unpack`), described by `tests/integration/scan.py`. It is made once
/// in a run: several tests compare with the same one.
///
/// # Errors
/// What failed.
pub fn unpacked(name: &str) -> anyhow::Result<Arc<str>> {
    static MADE: Mutex<BTreeMap<String, Arc<str>>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(text) = made.get(name) {
        return Ok(Arc::clone(text));
    }
    let directory = tempfile::tempdir_in(repository().join("target"))?;
    let root = directory.path().join("root");
    let unpack = Command::new(repository().join("tests/images/unpack")).arg(name).arg(&root).output()?;
    Done::from(unpack).success().context("tests/images/unpack")?;
    let scan = repository().join("tests/integration/scan.py");
    let text: Arc<str> = Done::from(Command::new("python3").arg(scan).arg(&root).output()?).success()?.stdout.into();
    made.insert(name.to_owned(), Arc::clone(&text));
    Ok(text)
}
