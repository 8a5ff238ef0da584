//! The step's processes that Slurm does not know: Podman's pause process, conmon, containers.
//!
//! A process belongs to a step if its environment, its command line or its root file system names the step's directory,
//! whose name no other step ever has, or if it descends from such a process. All of that is in the hands of the user, and
//! so this only ever looks at processes of the user's own ids: they can get nobody's processes ended but their own.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use parallax_sys::process::Process;

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
/// # Errors
/// `/proc` can't be read.
pub fn find(directory: &Path, identity: &Identity) -> io::Result<Vec<Process>> {
    let marker = format!("{}/", directory.display());
    let mut table = Table::default();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Held before it is examined: should it end and its number be used again, the signal goes to nobody.
        let Ok(process) = Process::open(pid) else { continue };
        let Some(status) = fs::read_to_string(format!("/proc/{pid}/status")).ok().and_then(|text| Status::parse(&text))
        else {
            continue;
        };
        if !owns(&identity.users, status.uid) || status.zombie {
            continue;
        }
        if names(pid, marker.as_bytes()) {
            table.marked.insert(pid);
        }
        table.parents.insert(pid, status.parent);
        table.processes.push(process);
    }
    Ok(table.members())
}

/// The user's processes.
#[derive(Default)]
struct Table {
    processes: Vec<Process>,
    parents: HashMap<i32, i32>,
    marked: HashSet<i32>,
}

impl Table {
    /// The marked processes and their descendants.
    fn members(self) -> Vec<Process> {
        let Self { processes, parents, marked } = self;
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
        processes.into_iter().filter(|process| belongs(process.pid())).collect()
    }
}

/// What is needed of `/proc/PID/status`.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    uid: u32,
    parent: i32,
    zombie: bool,
}

impl Status {
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        Some(Self {
            uid: field("Uid:")?.split_whitespace().next()?.parse().ok()?,
            parent: field("PPid:")?.parse().ok()?,
            zombie: field("State:")?.starts_with('Z'),
        })
    }
}

fn owns(ids: &Ids, uid: u32) -> bool {
    uid == ids.own || ids.subordinate.iter().any(|range| uid >= range.start && uid - range.start < range.count)
}

/// Whether the process names the step's directory.
fn names(pid: i32, marker: &[u8]) -> bool {
    let holds = |file: &str| fs::read(format!("/proc/{pid}/{file}")).is_ok_and(|bytes| contains(&bytes, marker));
    holds("environ") || holds("cmdline") || root_is_on(pid, marker)
}

/// Whether the root of the process's mount namespace is an overlay whose writable layer is in the step's directory.
fn root_is_on(pid: i32, marker: &[u8]) -> bool {
    let Ok(mounts) = fs::read_to_string(format!("/proc/{pid}/mountinfo")) else { return false };
    mounts.lines().any(|line| {
        let Some((place, rest)) = line.split_once(" - ") else { return false };
        place.split(' ').nth(4) == Some("/") && rest.starts_with("overlay ") && contains(rest.as_bytes(), marker)
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
    fn a_status_is_read() {
        let text = "Name:\tsleep\nState:\tS (sleeping)\nPid:\t9\nPPid:\t7\nUid:\t1001\t1001\t1001\t1001\n";
        assert_eq!(Status::parse(text), Some(Status { uid: 1001, parent: 7, zombie: false }));
    }
}
