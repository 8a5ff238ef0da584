//! The search for the step's processes, and their end.

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

use parallax_sys::process::Process;

use super::evidence::{Stat, evidence, root_device, root_is_container};
use super::membership::StepProcesses;
use super::owner::{is_users, of};
use crate::identity::Identity;

/// Maximum number of searches: each one found new processes, forked while others were killed.
const MAX_ROUNDS: usize = 20;

/// Kills all processes of the step and waits for their end. Returns their number, and the problems.
#[must_use]
pub fn end(step: &StepProcesses<'_>, identity: &Identity, timeout: Duration) -> (usize, Vec<String>) {
    let deadline = Instant::now() + timeout;
    let mut problems = Vec::new();
    let mut ended = 0;
    for _ in 0..MAX_ROUNDS {
        let found = match find(step, identity) {
            Ok(found) => found,
            Err(error) => {
                problems.push(format!("cannot read the process table: {error}"));
                break;
            }
        };
        if found.is_empty() {
            return (ended, problems);
        }
        for process in &found {
            if let Err(error) = process.kill() {
                problems.push(format!("cannot kill the process {}: {error}", process.pid()));
            }
        }
        for process in &found {
            let left = deadline.saturating_duration_since(Instant::now());
            match process.wait_until_ended(left) {
                Ok(true) => ended += 1,
                _ => problems.push(format!("timed out waiting for the end of the process {}", process.pid())),
            }
        }
        if !problems.is_empty() {
            break;
        }
    }
    (ended, problems)
}

/// Returns the processes of the step.
///
/// Skips other users' processes after one `stat(2)`, so that the cost of a release depends on the number of the user's
/// processes and hardly on the rest of the node.
///
/// # Errors
/// `/proc` cannot be read.
pub fn find(step: &StepProcesses<'_>, identity: &Identity) -> io::Result<Vec<Process>> {
    let node = root_device("self");
    let mut table = Table::default();
    for pid in of(identity)? {
        // Opened before it is inspected: if it ends and its pid is reused, the signal has no target. Who has the
        // number now is asked again, as it may be another one since.
        let Ok(process) = Process::open(pid) else { continue };
        if !is_users(pid, identity) {
            continue;
        }
        let Some(stat) = Stat::of(pid) else { continue };
        if stat.zombie {
            continue;
        }
        let root = root_device(&pid.to_string()).filter(|root| Some(*root) != node);
        if evidence(pid, step, identity, root.is_some()).is_some_and(|evidence| step.has(&evidence)) {
            table.marked.insert(pid);
        }
        table.roots.extend(root.map(|root| (pid, root)));
        table.parents.insert(pid, stat.parent);
        table.processes.push(process);
    }
    Ok(table.members())
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::identity::Ids;

    fn this_user() -> Identity {
        let own = rustix::process::getuid().as_raw();
        let ids = || Ids { own, subordinate: Vec::new() };
        Identity { name: String::new(), home: None, users: ids(), groups: ids(), subid_module: None }
    }

    /// A shell with a child, started with variables that name a directory.
    fn shell(directory: &Path) -> std::process::Child {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & echo started; wait"])
            .env("XDG_RUNTIME_DIR", directory.join("run"))
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line).unwrap();
        child
    }

    fn step(directory: &Path, owner: Option<i32>) -> StepProcesses<'_> {
        StepProcesses { directory, job: 6, owner, control_group: None, shared: false }
    }

    fn this_process() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }

    #[test]
    fn a_process_that_names_the_directory_ends_with_its_children() {
        let directory = tempfile::tempdir().unwrap();
        let mut child = shell(directory.path());
        let step = step(directory.path(), Some(this_process()));
        let (ended, problems) = end(&step, &this_user(), Duration::from_secs(10));
        child.wait().unwrap();
        assert_eq!((ended, problems), (2, Vec::new()));
    }

    #[test]
    fn a_process_that_names_the_directory_and_is_in_no_step_lives_on() {
        let directory = tempfile::tempdir().unwrap();
        let mut child = shell(directory.path());
        let found = find(&step(directory.path(), None), &this_user()).unwrap();
        let groups = StepProcesses { control_group: Some("/job_6/step_0"), ..step(directory.path(), None) };
        let found_by_group = find(&groups, &this_user()).unwrap();
        let ended = end(&step(directory.path(), Some(this_process())), &this_user(), Duration::from_secs(10));
        child.wait().unwrap();
        assert_eq!(ended, (2, Vec::new()));
        assert!(found.is_empty() && found_by_group.is_empty(), "{found:?} {found_by_group:?}");
    }
}
