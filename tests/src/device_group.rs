//! A control group whose processes lack a device, as those of a job that Slurm gives some devices only.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;

use crate::cluster::{Cluster, Done, repository};
use crate::memory_group::name_of;

/// A control group of version 2 of the machine's, without the device `/dev/full`; gone with this value.
#[derive(Debug)]
pub struct DeviceGroup(PathBuf);

impl DeviceGroup {
    /// The device that its processes cannot open.
    pub const DEVICE: &str = "/dev/full";

    /// Makes the group, for processes of a cluster's nodes.
    ///
    /// # Errors
    /// The machine has no control groups of version 2, or does not permit programs for devices in them.
    pub fn new(cluster: &Cluster) -> anyhow::Result<Self> {
        let found = Command::new("findmnt").args(["-nfo", "TARGET", "-t", "cgroup2"]).output()?;
        let mounted = Done::from(found).success().context("this machine has no control groups of version 2")?.stdout;
        let group = Self(PathBuf::from(mounted.trim()).join(name_of(cluster, "devices")));
        fs::create_dir(&group.0)?;
        let filter = repository().join("tests/cluster/lib/device-filter.py");
        // memory(4): full is 1, 7.
        let attached = Command::new("python3").arg(filter).arg(&group.0).args(["1", "7"]).output()?;
        Done::from(attached).success().context("this machine permits no programs for devices of control groups")?;
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

impl Drop for DeviceGroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}
