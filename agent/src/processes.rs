//! The step's processes that Slurm does not know: Podman's pause process, conmon, containers.
//!
//! A process belongs to a step if its environment, its command line or its root file system names the step's directory,
//! whose name no other step ever has, or if it descends from such a process. All of that is in the hands of the user, and
//! so this only ever looks at processes of the user's own ids: they can get nobody's processes ended but their own.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use parallax_sys::process::Process;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::identity::{Identity, Ids};

/// How often the process table is looked through: each time new processes were found, forked while others were ended.
const ROUNDS: usize = 20;

/// Ends every process of the step and waits until they have ended. Returns how many there were, and what went wrong.
#[must_use]
pub fn end(directory: &Path, identity: &Identity, patience: Duration) -> (usize, Vec<String>) {
    let deadline = Instant::now() + patience;
    let mut problems = Vec::new();
    let mut ended = 0;
    for _ in 0..ROUNDS {
        let found = match find(directory, identity) {
            Ok(found) => found,
            Err(error) => {
                problems.push(format!("the process table can't be read: {error}"));
                break;
            }
        };
        if found.is_empty() {
            return (ended, problems);
        }
        for process in &found {
            if let Err(error) = process.kill() {
                problems.push(format!("process {} can't be ended: {error}", process.pid()));
            }
        }
        for process in &found {
            let left = deadline.saturating_duration_since(Instant::now());
            match process.wait_until_ended(left) {
                Ok(true) => ended += 1,
                _ => problems.push(format!("process {} does not end", process.pid())),
            }
        }
        if !problems.is_empty() {
            break;
        }
    }
    (ended, problems)
}

/// The processes of the step.
///
/// Of a process of somebody else nothing is looked at but whose it is, which is one system call; so the price of a release hangs
/// on how many processes the user has, and hardly on what else the node does.
///
/// # Errors
/// `/proc` can't be read.
pub fn find(directory: &Path, identity: &Identity) -> io::Result<Vec<Process>> {
    let marker = format!("{}/", directory.display());
    let node = root_device("self");
    let mut table = Table::default();
    for pid in of(identity)? {
        // Held before it is examined: should it end and its number be used again, the signal goes to nobody. Who has the
        // number now is asked again, as it may be another one since.
        let Ok(process) = Process::open(pid) else { continue };
        if !is_users(pid, identity) {
            continue;
        }
        let Some(stat) = fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|text| Stat::parse(&text))
        else {
            continue;
        };
        if stat.zombie {
            continue;
        }
        let root = root_device(&pid.to_string()).filter(|root| Some(*root) != node);
        if names(pid, marker.as_bytes(), root.is_some()) {
            table.marked.insert(pid);
        }
        table.roots.extend(root.map(|root| (pid, root)));
        table.parents.insert(pid, stat.parent);
        table.processes.push(process);
    }
    Ok(table.members())
}

/// The numbers of the user's processes.
///
/// # Errors
/// `/proc` can't be read.
pub fn of(identity: &Identity) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    found.retain(|&pid| is_users(pid, identity));
    Ok(found)
}

fn is_users(pid: i32, identity: &Identity) -> bool {
    owner(pid).is_some_and(|uid| owns(&identity.users, uid))
}

/// The effective user of a process: whoever may or may not look into the process, its directory has that owner (`proc(5)`).
fn owner(pid: i32) -> Option<u32> {
    fs::metadata(format!("/proc/{pid}")).ok().map(|metadata| metadata.uid())
}

/// The user's processes.
#[derive(Default)]
struct Table {
    processes: Vec<Process>,
    parents: HashMap<i32, i32>,
    /// The devices of root directories that are not the node's.
    roots: HashMap<i32, u64>,
    marked: HashSet<i32>,
}

impl Table {
    /// The marked processes and their descendants, and whoever shares a container's root with one of them: what FUSE shows names
    /// no directory of the step's.
    fn members(mut self) -> Vec<Process> {
        let found = self.marked_and_descendants();
        let of_members = |(pid, root): (&i32, &u64)| (found.contains(pid) && root_is_container(*pid)).then_some(*root);
        let containers: HashSet<u64> = self.roots.iter().filter_map(of_members).collect();
        self.marked.extend(self.roots.iter().filter(|(_, root)| containers.contains(root)).map(|(pid, _)| pid));
        let all = self.marked_and_descendants();
        self.processes.into_iter().filter(|process| all.contains(&process.pid())).collect()
    }

    fn marked_and_descendants(&self) -> HashSet<i32> {
        let Self { processes, parents, marked, .. } = self;
        let belongs = |pid: i32| {
            let mut ancestor = Some(pid);
            // A table read while processes come and go might hold a cycle.
            for _ in 0..parents.len() {
                match ancestor {
                    Some(pid) if marked.contains(&pid) => return true,
                    Some(pid) => ancestor = parents.get(&pid).copied(),
                    None => return false,
                }
            }
            ancestor.is_some_and(|pid| marked.contains(&pid))
        };
        processes.iter().map(Process::pid).filter(|pid| belongs(*pid)).collect()
    }
}

/// What is needed of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: i32,
    zombie: bool,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name before that is in parentheses, and may have any character in it.
        let mut fields = text.rsplit_once(')')?.1.split_whitespace();
        let zombie = fields.next()? == "Z";
        Some(Self { parent: fields.next()?.parse().ok()?, zombie })
    }
}

fn owns(ids: &Ids, uid: u32) -> bool {
    uid == ids.own || ids.subordinate.iter().any(|range| uid >= range.start && uid - range.start < range.count)
}

/// Whether the process names the step's directory, or, if its root is not the node's, its root does.
fn names(pid: i32, marker: &[u8], has_own_root: bool) -> bool {
    let holds = |file: &str| fs::read(format!("/proc/{pid}/{file}")).is_ok_and(|bytes| contains(&bytes, marker));
    // The mounts of a process whose root is the node's are all of the node's, and no business of ours.
    holds("environ") || holds("cmdline") || (has_own_root && root_is_on(pid, marker))
}

/// The device on which a process's root directory lies. A file system that a user made is not asked: it might not answer.
fn root_device(process: &str) -> Option<u64> {
    let flags = AtFlags::STATX_DONT_SYNC;
    let found = statx(CWD, format!("/proc/{process}/root"), flags, StatxFlags::empty()).ok()?;
    Some(u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor))
}

/// Whether the root of the process's mount namespace is an overlay whose writable layer is in the step's directory.
fn root_is_on(pid: i32, marker: &[u8]) -> bool {
    root_mount(pid, |mount| mount.starts_with("overlay ") && contains(mount.as_bytes(), marker))
}

/// Whether it is what containers have: an overlay, the kernel's or one by FUSE.
fn root_is_container(pid: i32) -> bool {
    root_mount(pid, |mount| mount.starts_with("overlay ") || mount.starts_with("fuse.fuse-overlayfs "))
}

/// What `/proc/PID/mountinfo` says of the type, source and options of the root.
fn root_mount(pid: i32, fits: impl Fn(&str) -> bool) -> bool {
    let Ok(mounts) = fs::read_to_string(format!("/proc/{pid}/mountinfo")) else { return false };
    mounts.lines().any(|line| {
        let Some((place, rest)) = line.split_once(" - ") else { return false };
        place.split(' ').nth(4) == Some("/") && fits(rest)
    })
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::SubordinateRange;

    fn this_user() -> Identity {
        let own = rustix::process::getuid().as_raw();
        let ids = || Ids { own, subordinate: Vec::new() };
        Identity { name: String::new(), users: ids(), groups: ids() }
    }

    #[test]
    fn a_process_that_names_the_directory_ends_with_its_children() {
        let directory = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & echo started; wait"])
            .env("XDG_RUNTIME_DIR", directory.path().join("run"))
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line).unwrap();
        let (ended, problems) = end(directory.path(), &this_user(), Duration::from_secs(10));
        child.wait().unwrap();
        assert_eq!((ended, problems), (2, Vec::new()));
    }

    #[test]
    fn nobody_elses_processes_are_looked_at() {
        let ids = Ids { own: 7, subordinate: vec![SubordinateRange { start: 100, count: 10 }] };
        assert!(owns(&ids, 7) && owns(&ids, 100) && owns(&ids, 109));
        assert!(!owns(&ids, 0) && !owns(&ids, 110) && !owns(&ids, 99));
    }

    #[test]
    fn a_stat_is_read() {
        let parsed = |text| Stat::parse(text);
        assert_eq!(parsed("9 (sleep) S 7 9 9 0"), Some(Stat { parent: 7, zombie: false }));
        assert_eq!(parsed("9 (a) R 1 (b)) Z 5 9"), Some(Stat { parent: 5, zombie: true }));
        assert_eq!(parsed("9 (a"), None);
    }

    #[test]
    fn a_process_has_an_owner_and_a_root() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(owner(own), Some(rustix::process::geteuid().as_raw()));
        assert!(root_device("self").is_some());
        assert_eq!(root_device("self"), root_device(&own.to_string()));
    }
}
