//! The processes of a node, as the machine sees them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, ensure};
use parallax_sys::process::Process;

use crate::cluster::{Cluster, TEST_TIMEOUT};

/// A process of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeProcess {
    /// Its number on the machine.
    pub pid: i32,
    /// Its number on the node.
    pub node_pid: i32,
    /// Its name, 15 characters at most.
    pub name: String,
    /// Its real user.
    pub uid: u32,
    /// Whether it has ended and waits to be reaped.
    pub zombie: bool,
}

/// What is needed of `/proc/PID/status`.
struct Status {
    process: NodeProcess,
    parent: i32,
    /// Whether it is in the node's PID namespace itself.
    in_namespace: bool,
}

/// The processes in a node's PID namespace and in those below it.
///
/// # Errors
/// The node is not up.
pub fn on(cluster: &Cluster, node: &str) -> anyhow::Result<Vec<NodeProcess>> {
    let namespace = |pid: i32| fs::metadata(format!("/proc/{pid}/ns/pid")).map(|metadata| metadata.ino()).ok();
    let first = namespace(cluster.first_process(node)?).with_context(|| format!("{node} is gone"))?;
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        all.extend(Status::parse(pid, &text, namespace(pid) == Some(first)));
    }
    let parents: HashMap<i32, i32> = all.iter().map(|status| (status.process.pid, status.parent)).collect();
    let inside: HashSet<i32> =
        all.iter().filter(|status| status.in_namespace).map(|status| status.process.pid).collect();
    // What is in a PID namespace of its own has an ancestor in the node's.
    let belongs = |mut pid: i32| {
        for _ in 0..parents.len() {
            match parents.get(&pid) {
                _ if inside.contains(&pid) => return true,
                Some(&parent) => pid = parent,
                None => return false,
            }
        }
        false
    };
    Ok(all.into_iter().map(|status| status.process).filter(|process| belongs(process.pid)).collect())
}

impl Status {
    fn parse(pid: i32, text: &str, in_namespace: bool) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let process = NodeProcess {
            pid,
            node_pid: field("NSpid:")?.split_whitespace().last()?.parse().ok()?,
            name: field("Name:")?.to_owned(),
            uid: field("Uid:")?.split_whitespace().next()?.parse().ok()?,
            zombie: field("State:")?.starts_with('Z'),
        };
        Some(Self { process, parent: field("PPid:")?.parse().ok()?, in_namespace })
    }
}

/// Takes hold of the processes of a node that have this name; zombies are none.
///
/// # Errors
/// The node is not up.
pub fn named(cluster: &Cluster, node: &str, name: &str) -> anyhow::Result<Vec<Process>> {
    let found = on(cluster, node)?.into_iter().filter(|process| process.name == name && !process.zombie);
    Ok(found.filter_map(|process| Process::open(process.pid).ok()).collect())
}

/// Ends the processes of a node that have this name, by `SIGKILL`, and waits for their end.
///
/// # Errors
/// There are none, or they do not end.
pub fn kill(cluster: &Cluster, node: &str, name: &str) -> anyhow::Result<()> {
    let found = named(cluster, node, name)?;
    ensure!(!found.is_empty(), "{node} has no {name}");
    for process in &found {
        process.kill()?;
    }
    for process in &found {
        ensure!(process.wait_until_ended(TEST_TIMEOUT)?, "{name} on {node} does not end");
    }
    Ok(())
}

/// The machine's own number of a process on a node.
///
/// # Errors
/// There is no such process.
pub fn machine_pid(cluster: &Cluster, node: &str, node_pid: i32) -> anyhow::Result<i32> {
    let found = on(cluster, node)?.into_iter().find(|process| process.node_pid == node_pid);
    Ok(found.with_context(|| format!("{node} has no process {node_pid}"))?.pid)
}
