//! A limit on the memory of processes of a node.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;

/// A memory control group of the machine's, which nodes have none of; gone with this value.
#[derive(Debug)]
pub struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// Makes a group that may use so many bytes.
    ///
    /// # Errors
    /// The machine has no memory control groups, or cannot limit memory.
    pub fn new(bytes: u64) -> anyhow::Result<Self> {
        let name = format!("parallax-memory-limit-{}", std::process::id());
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

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}
