//! What of steps is left on a node, a line each.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::clean::NODES;
use crate::cluster::Cluster;
use crate::memory_group;
use crate::processes::{self, NodeProcess};

/// The processes that a node has when nothing runs on it, by name: its first one, and the services.
const OF_COMPUTE_NODES: [&str; 5] = ["catatonit", "munged", "slurmd", "parallax-agent", "parallax-helper"];
/// The same where systemd is the first one.
const OF_SYSTEMD_NODES: [&str; 6] =
    ["systemd", "systemd-journal", "munged", "slurmd", "parallax-agent", "parallax-helper"];
const OF_CTL: [&str; 4] = ["catatonit", "munged", "slurmctld", "slurmscriptd"];
const OF_GUESTS: [&str; 1] = ["catatonit"];
/// Where programs leave what they need for a while.
const SCRATCH: [&str; 5] = ["/tmp", "/var/tmp", "/dev/shm", "/run", "/run/user"];
/// How files and control groups are called that belong to a step or its Podman.
const OURS: [&str; 5] = ["parallax-", "libpod", "conmon", "crun", "containers-"];

/// The processes of a node that are none of its services, and the mounts that any process of it sees.
pub(super) fn processes_and_mounts(cluster: &Cluster, node: &str) -> anyhow::Result<Vec<String>> {
    let running = processes::on(cluster, node)?;
    let by_systemd = running.iter().any(|process| process.node_pid == 1 && process.name == "systemd");
    let known: &[&str] = match node {
        "ctl" => &OF_CTL,
        _ if by_systemd => &OF_SYSTEMD_NODES,
        _ if NODES.contains(&node) => &OF_COMPUTE_NODES,
        _ => &OF_GUESTS,
    };
    let mut left = Vec::new();
    for service in known {
        if !running.iter().any(|process| is(process, service) && !process.zombie) {
            left.push(format!("no {service} runs"));
        }
    }
    for process in running {
        if process.zombie {
            continue;
        }
        let (pid, name) = (process.pid, &process.name);
        if !known.iter().any(|service| is(&process, service)) {
            left.push(format!("process {pid} ({name}) of user {}", process.uid));
        }
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        for mount in mounts.lines().filter(|mount| is_left(mount)) {
            left.push(format!("mount in the namespace of process {pid} ({name}): {mount}"));
        }
    }
    Ok(left)
}

/// Whether a process is this service. Slurm's daemons have their file's name once they started themselves anew, and Debian's
/// files are called `slurmd-wlm` and the like.
fn is(process: &NodeProcess, service: &str) -> bool {
    process.name.trim_end_matches("-wlm") == service
}

/// Whether a line of `/proc/PID/mountinfo` is about a mount that a step or its Podman made: of all others there are none
/// but those that the node was born with.
fn is_left(mount: &str) -> bool {
    let (place, rest) = mount.split_once(" - ").unwrap_or_default();
    let mount_point = place.split(' ').nth(4).unwrap_or_default();
    let kind = rest.split(' ').next().unwrap_or_default();
    mount.contains("/run/parallax/")
        || kind == "squashfs"
        || kind.starts_with("fuse")
        || kind == "nsfs"
        || (kind == "overlay" && mount_point != "/")
}

/// What is below `/run/parallax` but for the agent's own files there (its socket and the like).
pub(super) fn files(cluster: &Cluster, node: &str) -> anyhow::Result<Vec<String>> {
    let mut left = Vec::new();
    for (name, directory) in entries(&cluster.path_on(node, "/run/parallax")?)? {
        if directory {
            let path = format!("/run/parallax/{name}");
            let below = entries(&cluster.path_on(node, &path)?)?;
            left.extend(below.into_iter().map(|(name, _)| format!("{path}/{name}")));
        }
    }
    Ok(left)
}

/// What users and their Podman have in the places where programs leave what they need for a while.
pub(super) fn scratch(cluster: &Cluster, node: &str) -> anyhow::Result<Vec<String>> {
    let mut left = Vec::new();
    for place in SCRATCH {
        let path = cluster.path_on(node, place)?;
        for (name, _) in entries(&path)? {
            let Ok(metadata) = fs::symlink_metadata(path.join(&name)) else { continue };
            let service = metadata.file_type().is_socket() || name == "parallax-agent.pid";
            let ours = OURS.iter().any(|part| name.starts_with(part)) && !service;
            if metadata.uid() >= 1000 || ours {
                left.push(format!("{place}/{name} of user {}", metadata.uid()));
            }
        }
    }
    Ok(left)
}

/// The machine's control groups that belong to a step. Nodes that systemd booted have their own below one of the machine's,
/// `cluster-NODE.…`, the others see the machine's, read-only. What another checkout's nodes have below theirs is none of this one's.
pub(super) fn control_groups(cluster: &Cluster) -> Vec<String> {
    let own: Vec<PathBuf> = NODES.iter().filter_map(|node| cluster.control_group(node).ok()).collect();
    let mut left = Vec::new();
    let mut directories = vec![Path::new("/sys/fs/cgroup").to_owned()];
    while let Some(directory) = directories.pop() {
        // One that goes at this moment is not left.
        for (name, is_directory) in entries(&directory).unwrap_or_default() {
            let path = directory.join(&name);
            let foreign = name.starts_with("cluster-") && !own.contains(&path);
            let service = name.ends_with(".service");
            let another = memory_group::is_of_another(cluster, &name);
            if is_directory && !service && !another && OURS.iter().any(|part| name.starts_with(part)) {
                left.push(format!("control group {}", path.display()));
            }
            if is_directory && !foreign {
                directories.push(path);
            }
        }
    }
    left
}

/// The names in a directory, and whether each is a directory; none if it is not there.
pub(super) fn entries(directory: &Path) -> anyhow::Result<Vec<(String, bool)>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("{}", directory.display()))?,
    };
    let describe = |entry: std::io::Result<fs::DirEntry>| -> anyhow::Result<(String, bool)> {
        let entry = entry?;
        Ok((entry.file_name().to_string_lossy().into_owned(), entry.file_type()?.is_dir()))
    };
    entries.map(describe).collect()
}
