//! What "clean" and "idle" mean: after a step nothing of it is left on its node, and Slurm has the node idle.

mod left;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, netlink, socket_with};

use crate::cluster::{Cluster, Done, TEST_TIMEOUT};
use crate::processes;

/// How long the kernel may take to free a loop device after its last user is gone.
const FREEING: Duration = Duration::from_secs(10);

/// The compute nodes of the cluster.
pub const NODES: [&str; 2] = ["n1", "n2"];

/// What came of looking at all nodes, a line for each thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// What is left: processes, mounts in any namespace, loop devices, control groups, files; or why that can't be told.
    pub left: Vec<String>,
    /// Nodes that Slurm does not have idle.
    pub not_idle: Vec<String>,
}

impl Verdict {
    /// Nothing is left and all nodes are idle.
    ///
    /// # Errors
    /// What is not so.
    pub fn into_result(self) -> anyhow::Result<()> {
        let lines: Vec<String> = self.left.into_iter().chain(self.not_idle).collect();
        ensure!(lines.is_empty(), "not clean:\n{}", lines.join("\n"));
        Ok(())
    }
}

/// Waits until the steps of the nodes that were touched have ended, then makes sure that nothing is left on these and that
/// Slurm has them idle.
///
/// # Errors
/// What is left, and where.
pub fn assert_clean(cluster: &Cluster) -> anyhow::Result<()> {
    examine(cluster, None).into_result()
}

/// What users have in the nodes' `/tmp`, `/dev/shm` and the like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scratch(Vec<String>);

impl Scratch {
    /// What is there now. A user's Podman outside of a step leaves things there, and that is theirs; a step's must not.
    ///
    /// # Errors
    /// A node can't be examined.
    pub fn now(cluster: &Cluster) -> anyhow::Result<Self> {
        let mut found = Vec::new();
        for node in NODES {
            found.extend(left::scratch(cluster, node)?.into_iter().map(|line| format!("{node}: {line}")));
        }
        Ok(Self(found))
    }
}

/// Waits until the steps of the nodes that were touched have ended, then looks at what is left on these and what Slurm says of
/// them. With `before`,
/// what users have got since then in the nodes' scratch directories is left, too.
#[must_use]
pub fn examine(cluster: &Cluster, before: Option<&Scratch>) -> Verdict {
    let mut verdict = Verdict::default();
    let touched = cluster.touched().take();
    for &node in &touched {
        match wait_for_steps(cluster, node).and_then(|()| leftovers(cluster, node)) {
            Ok(left) => verdict.left.extend(left.into_iter().map(|line| format!("{node}: {line}"))),
            Err(error) => verdict.left.push(format!("{node}: {error:#}")),
        }
    }
    match left::processes_and_mounts(cluster, "ctl") {
        Ok(left) => verdict.left.extend(left.into_iter().map(|line| format!("ctl: {line}"))),
        Err(error) => verdict.left.push(format!("ctl: {error:#}")),
    }
    verdict.left.extend(left::control_groups(cluster));
    match before.map(|before| (before, Scratch::now(cluster))) {
        None => {}
        Some((before, Ok(now))) => verdict.left.extend(now.0.into_iter().filter(|line| !before.0.contains(line))),
        Some((_, Err(error))) => verdict.left.push(format!("{error:#}")),
    }
    for node in touched {
        if let Err(error) = wait_until_idle(cluster, node) {
            verdict.not_idle.push(format!("{error:#}"));
        }
    }
    // What this look itself has touched.
    drop(cluster.touched().take());
    verdict
}

/// Ends all jobs and has Slurm use nodes again that it has drained, so that what one test did does not decide what comes of the
/// next ones. Does what it can: the test has failed already.
pub fn make_good(cluster: &Cluster) {
    let nodes = NODES.join(" ");
    let script = format!(
        "squeue --noheader --format=%A | xargs --no-run-if-empty scancel
        for node in {nodes}; do
            if scontrol --oneliner show node $node | grep -q DRAIN; then scontrol update nodename=$node state=resume; fi
        done"
    );
    if let Err(error) = cluster.shell("ctl", &script) {
        eprintln!("the nodes are not made good for the next test: {error:#}");
    }
}

/// Waits until Slurm has a node idle. It tells nobody when a job that has ended is cleared away, so it is asked again
/// and again.
fn wait_until_idle(cluster: &Cluster, node: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + TEST_TIMEOUT;
    loop {
        let state = cluster.slurm_state(node)?;
        // Behind it come what Slurm plans with it or still does there, and "*" if the node has not answered yet.
        let mut flags = state.trim_end_matches('*').split('+');
        let base = flags.next().unwrap_or_default();
        let flags: Vec<&str> = flags.collect();
        let passing = flags.iter().all(|flag| ["PLANNED", "COMPLETING", "NOT_RESPONDING"].contains(flag));
        match base {
            "IDLE" if flags.iter().all(|flag| *flag == "PLANNED") && !state.ends_with('*') => return Ok(()),
            "IDLE" | "ALLOCATED" | "MIXED" if passing && Instant::now() < deadline => {}
            _ => bail!("{node} is {state}, not idle; Slurm says\n{}", jobs(cluster, node)?),
        }
    }
}

/// What Slurm knows of a node and of the jobs there.
fn jobs(cluster: &Cluster, node: &str) -> anyhow::Result<String> {
    cluster.shell("ctl", &format!("scontrol --oneliner show node {node}; squeue --states=all --nodelist={node}"))
}

/// Waits until every slurmstepd of a node has ended, and the agent has taken down every step.
///
/// # Errors
/// They do not.
pub fn wait_for_steps(cluster: &Cluster, node: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + TEST_TIMEOUT;
    for process in processes::named(cluster, node, "slurmstepd")? {
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(process.wait_until_ended(left)?, "a slurmstepd of {node} does not end");
    }
    wait_for_no_lease(cluster, node)
}

/// Waits until the agent of a node has taken down every step.
///
/// # Errors
/// It does not.
pub fn wait_for_no_lease(cluster: &Cluster, node: &str) -> anyhow::Result<()> {
    wait_until_empty(&cluster.path_on(node, "/run/parallax/leases")?, Instant::now() + TEST_TIMEOUT)
}

/// Waits until the agent of a node has unmounted every layer: those that it keeps for a job go a little after the job's last process.
///
/// # Errors
/// It does not.
pub fn wait_for_no_layer(cluster: &Cluster, node: &str) -> anyhow::Result<()> {
    wait_until_empty(&cluster.path_on(node, "/run/parallax/layers")?, Instant::now() + TEST_TIMEOUT)
}

/// Waits until a directory, which must exist, is empty.
///
/// # Errors
/// It does not become empty.
pub fn wait_for_empty(directory: &Path) -> anyhow::Result<()> {
    wait_until_empty(directory, Instant::now() + TEST_TIMEOUT)
}

/// Waits, by inotify, until a directory is empty.
fn wait_until_empty(directory: &Path, deadline: Instant) -> anyhow::Result<()> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, directory, inotify::WatchFlags::DELETE | inotify::WatchFlags::MOVED_FROM)
        .with_context(|| format!("{}", directory.display()))?;
    loop {
        let names = left::entries(directory)?;
        if names.is_empty() {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).context("time")?;
        if poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&timeout))? == 0 {
            bail!("{} does not become empty: {names:?}", directory.display());
        }
        let mut buffer = [0_u8; 4096];
        let _ = rustix::io::read(&watch, &mut buffer);
    }
}

/// What is left on a node, a line each: processes, mounts in any namespace, loop devices, files.
///
/// # Errors
/// The node can't be examined.
pub fn leftovers(cluster: &Cluster, node: &str) -> anyhow::Result<Vec<String>> {
    let mut left = left::processes_and_mounts(cluster, node)?;
    left.extend(left::files(cluster, node)?);
    left.extend(busy_loop_devices(cluster)?.into_iter().map(|device| format!("loop device {device}")));
    left.sort();
    left.dedup();
    Ok(left)
}

/// The loop devices of this cluster that stay busy. The kernel frees a device a little after its last user is gone, and tells
/// those who listen for changes of devices (netlink(7), `NETLINK_KOBJECT_UEVENT`).
///
/// # Errors
/// The devices can't be listed.
pub fn busy_loop_devices(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let events = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::KOBJECT_UEVENT))?;
    bind(&events, &netlink::SocketAddrNetlink::new(0, 1))?;
    let deadline = Instant::now() + FREEING;
    loop {
        let busy = loop_devices(cluster)?;
        let left = deadline.saturating_duration_since(Instant::now());
        if busy.is_empty() || left.is_zero() {
            return Ok(busy);
        }
        poll(&mut [PollFd::new(&events, PollFlags::IN)], Some(&Timespec::try_from(left).context("time")?))?;
        let mut event = [0_u8; 8192];
        while rustix::io::read(&events, &mut event).is_ok() {}
    }
}

/// Notes the layers that are in the cluster's store now, so that the loop devices over them are known even when they are
/// removed. [`busy_loop_devices`] does it by itself; who removes a layer that came since then must do it before.
///
/// # Errors
/// The store can't be read.
pub fn note_layers(cluster: &Cluster) -> anyhow::Result<()> {
    note_layers_of(cluster, &cluster.shared().join("store"))
}

/// The same for another store.
///
/// # Errors
/// The store can't be read.
pub fn note_layers_of(cluster: &Cluster, store: &Path) -> anyhow::Result<()> {
    let layers = store.join("parallax/layers");
    for (name, _) in left::entries(&layers)? {
        if let Ok(metadata) = fs::metadata(layers.join(name)) {
            cluster.layer_inodes().insert(metadata.ino());
        }
    }
    Ok(())
}

/// The loop devices over files of this cluster's store. Another checkout's cluster has the same paths, so files are told apart
/// by their inodes.
fn loop_devices(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    note_layers(cluster)?;
    let known = cluster.layer_inodes();
    let listed =
        Command::new("losetup").args(["--list", "--noheadings", "--output", "BACK-INO,NAME,BACK-FILE"]).output()?;
    let listed = Done::from(listed).success()?.stdout;
    let inode = |line: &str| line.split_whitespace().next().and_then(|inode| inode.parse().ok());
    let ours = |line: &&str| inode(line).is_some_and(|inode: u64| known.contains(&inode));
    Ok(listed.lines().filter(ours).map(ToOwned::to_owned).collect())
}
