//! A limit on the memory of processes of a node.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;

use crate::cluster::Cluster;

/// How the groups of all clusters and checkouts begin.
const PREFIX: &str = "parallax-limit-";

/// A memory control group of the machine's, which nodes have none of; gone with this value.
#[derive(Debug)]
pub struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// Makes a group that may use so many bytes, for processes of a cluster's nodes.
    ///
    /// # Errors
    /// The machine has no memory control groups, or cannot limit memory.
    pub fn new(cluster: &Cluster, bytes: u64) -> anyhow::Result<Self> {
        let name = name_of(cluster, "memory");
        let (first, second) = (PathBuf::from("/sys/fs/cgroup/memory"), PathBuf::from("/sys/fs/cgroup"));
        let (directory, limit) = if first.is_dir() { (first, "memory.limit_in_bytes") } else { (second, "memory.max") };
        let group = Self(directory.join(name));
        fs::create_dir(&group.0).context("this machine has no memory control groups")?;
        fs::write(group.0.join(limit), bytes.to_string()).context("this machine can't limit memory")?;
        Ok(group)
    }

    /// Moves a process into the group, by the machine's number of it.
    ///
    /// # Errors
    /// What the system said.
    pub fn add(&self, pid: i32) -> anyhow::Result<()> {
        Ok(fs::write(self.0.join("cgroup.procs"), pid.to_string())?)
    }
}

/// What a group of a cluster is called that limits something. All clusters share the machine's control groups.
pub(crate) fn name_of(cluster: &Cluster, limited: &str) -> String {
    format!("{PREFIX}{}-{}-{limited}", std::process::id(), cluster.name())
}

/// Whether a control group limits the processes of another cluster: of another lane of these tests, or of another checkout.
pub(crate) fn is_of_another(cluster: &Cluster, group: &str) -> bool {
    group.starts_with(PREFIX) && !group.starts_with(&name_of(cluster, ""))
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}
