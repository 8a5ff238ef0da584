//! What an agent takes of its node.

use std::fmt;
use std::fs;

use anyhow::{Context as _, ensure};

use integration_tests::cluster::Cluster;
use integration_tests::processes;

/// The node whose agent no fault ends, so that it lives through the whole soak.
pub(crate) const WITNESS: &str = "n2";

/// How much an agent's memory may grow after the first round, in kB: what it freed lies in more or fewer pages, and more steps at once
/// have left more stacks. A leak is another matter: a minute has some hundred leases, so one of 1 kB for each is over this after some
/// ten minutes.
const SLACK: u64 = 1024;

/// How many more descriptors and threads an agent may have than after the first round: a worker that has just told the end of a lease
/// may still be there. A leak is one for every so many leases, and a soak has thousands.
const WORKER: u64 = 1;

/// An idle agent's memory and descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// `RssAnon` of `/proc/PID/status`, in kB.
    memory: u64,
    descriptors: u64,
    threads: u64,
}

impl Footprint {
    /// What the agent of a node takes now.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn of(cluster: &Cluster, node: &str) -> anyhow::Result<Self> {
        let agents = processes::named(cluster, node, "parallax-agent")?;
        let pid = agents.first().with_context(|| format!("{node} has no agent"))?.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| -> anyhow::Result<u64> {
            let value = status.lines().find_map(|line| line.strip_prefix(name)).context("no such field")?;
            Ok(value.split_whitespace().next().context("no value")?.parse()?)
        };
        let descriptors = u64::try_from(fs::read_dir(format!("/proc/{pid}/fd"))?.count())?;
        Ok(Self { memory: field("RssAnon:")?, descriptors, threads: field("Threads:")? })
    }

    /// Makes sure that a later footprint is no larger.
    ///
    /// # Errors
    /// It is.
    pub(crate) fn ensure_flat(&self, later: &Self) -> anyhow::Result<()> {
        let flat = later.memory <= self.memory + SLACK
            && later.descriptors <= self.descriptors + WORKER
            && later.threads <= self.threads + WORKER;
        ensure!(flat, "the agent of {WITNESS} has grown: {self} after the first round, {later} at the end");
        Ok(())
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} kB, {} descriptors, {} threads", self.memory, self.descriptors, self.threads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_told_from_slack() {
        let first = Footprint { memory: 3000, descriptors: 9, threads: 2 };
        assert!(first.ensure_flat(&Footprint { memory: 3000 + SLACK, ..first }).is_ok());
        assert!(first.ensure_flat(&Footprint { memory: 3001 + SLACK, ..first }).is_err());
        assert!(first.ensure_flat(&Footprint { descriptors: 10, threads: 3, ..first }).is_ok());
        assert!(first.ensure_flat(&Footprint { descriptors: 11, ..first }).is_err());
        assert!(first.ensure_flat(&Footprint { threads: 4, ..first }).is_err());
    }
}
