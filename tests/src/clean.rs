//! What "clean" means: after a step nothing of it is left on its node.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use parallax_sys::process::Process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, netlink, socket_with};

use crate::cluster::{Cluster, Done, PATIENCE};

/// How long the kernel may take to free a loop device after its last user is gone.
const FREEING: Duration = Duration::from_secs(10);

/// The compute nodes of the cluster.
pub const NODES: [&str; 2] = ["n1", "n2"];

/// Waits until the nodes' steps have ended, then makes sure that nothing is left on them and that Slurm has them idle.
///
/// # Errors
/// What is left, and where.
pub fn assert_clean(cluster: &Cluster) -> anyhow::Result<()> {
    for node in NODES {
        wait_for_steps(cluster, node)?;
        let left = leftovers(cluster, node)?;
        ensure!(left.is_empty(), "left on {node}:\n{}", left.join("\n"));
    }
    for node in NODES {
        let state = cluster.slurm_state(node)?;
        ensure!(["idle", "completing", "idle~"].contains(&state.as_str()), "{node} is {state}, not idle");
    }
    Ok(())
}

/// Waits until every slurmstepd of a node has ended, and the agent has taken down every step.
///
/// # Errors
/// They do not.
pub fn wait_for_steps(cluster: &Cluster, node: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    for process in processes_of(cluster, node)? {
        if process.name == "slurmstepd" {
            if let Ok(process) = Process::open(process.pid) {
                let left = deadline.saturating_duration_since(Instant::now());
                ensure!(process.wait_until_ended(left)?, "a slurmstepd of {node} does not end");
            }
        }
    }
    wait_for_no_lease(cluster, node)
}

/// Waits until the agent of a node has taken down every step.
///
/// # Errors
/// It does not.
pub fn wait_for_no_lease(cluster: &Cluster, node: &str) -> anyhow::Result<()> {
    wait_until_empty(&cluster.path_on(node, "/run/parallax/leases")?, Instant::now() + PATIENCE)
}

/// Waits, by inotify, until a directory is empty.
fn wait_until_empty(directory: &Path, deadline: Instant) -> anyhow::Result<()> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, directory, inotify::WatchFlags::DELETE | inotify::WatchFlags::MOVED_FROM)?;
    loop {
        let names = names_in(directory)?;
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

/// What is left on a node, a line each: mounts in any namespace, loop devices, processes, files.
///
/// # Errors
/// The node can't be examined.
pub fn leftovers(cluster: &Cluster, node: &str) -> anyhow::Result<Vec<String>> {
    let mut left = Vec::new();
    for process in processes_of(cluster, node)? {
        let NodeProcess { pid, ref name, uid } = process;
        if (1001..=1003).contains(&uid) || uid >= 65_536 {
            left.push(format!("process {pid} ({name}) of user {uid}"));
        }
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        for mount in mounts.lines().filter(|mount| is_ours(mount)) {
            left.push(format!("mount in the namespace of process {pid} ({name}): {mount}"));
        }
    }
    for directory in ["steps", "layers", "leases"] {
        let path = cluster.path_on(node, &format!("/run/parallax/{directory}"))?;
        left.extend(names_in(&path)?.into_iter().map(|name| format!("/run/parallax/{directory}/{name}")));
    }
    left.extend(busy_loop_devices(cluster)?.into_iter().map(|device| format!("loop device {device}")));
    left.sort();
    left.dedup();
    Ok(left)
}

/// Whether a line of `/proc/PID/mountinfo` is about a mount of a step or a layer.
fn is_ours(mount: &str) -> bool {
    mount.contains("/run/parallax/") || mount.contains(" - squashfs ") || mount.contains("fuse.squashfuse")
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

/// The loop devices over files of this cluster's store. Another checkout's cluster has the same paths, so files are told apart
/// by their inodes.
fn loop_devices(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let layers = cluster.shared().join("store/parallax/layers");
    let mut inodes = Vec::new();
    for name in names_in(&layers)? {
        inodes.push(fs::metadata(layers.join(name))?.ino().to_string());
    }
    let listed =
        Command::new("losetup").args(["--list", "--noheadings", "--output", "BACK-INO,NAME,BACK-FILE"]).output()?;
    let listed = Done::from(listed).success()?.stdout;
    let ours =
        |line: &&str| line.split_whitespace().next().is_some_and(|inode| inodes.iter().any(|known| known == inode));
    Ok(listed.lines().filter(ours).map(ToOwned::to_owned).collect())
}

struct NodeProcess {
    pid: i32,
    name: String,
    uid: u32,
}

/// The processes in a node's PID namespace.
fn processes_of(cluster: &Cluster, node: &str) -> anyhow::Result<Vec<NodeProcess>> {
    let namespace = |pid: i32| fs::metadata(format!("/proc/{pid}/ns/pid")).map(|metadata| metadata.ino()).ok();
    let first = namespace(cluster.first_process(node)?).with_context(|| format!("{node} is gone"))?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if namespace(pid) != Some(first) {
            continue;
        }
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        let uid = field("Uid:").split_whitespace().next().unwrap_or_default().parse().unwrap_or_default();
        found.push(NodeProcess { pid, name: field("Name:").to_owned(), uid });
    }
    Ok(found)
}

fn names_in(directory: &Path) -> anyhow::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("{}", directory.display()))?,
    };
    entries.map(|entry| Ok(PathBuf::from(entry?.file_name()).display().to_string())).collect()
}
