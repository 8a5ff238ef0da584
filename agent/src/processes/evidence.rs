//! Reads the facts about a process by which it is recognized as one of a step.

use std::fs;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::membership::{Ancestor, Evidence, StepProcesses, owner_control_group, step_control_group};
use super::owner::is_users;
use crate::identity::Identity;

/// The name of Slurm's process for each step, as in `/proc/PID/comm`.
const SLURMSTEPD: &str = "slurmstepd";
/// The variable that has the id of a process's job.
const JOB_ID: &[u8] = b"SLURM_JOB_ID=";
/// The first process of the node.
const INIT: i32 = 1;
/// Maximum number of ancestors: a chain that is read while processes start and end may have a cycle.
const MAX_ANCESTORS: usize = 4096;

/// The fields of `/proc/PID/stat` that are needed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) name: String,
    pub(super) parent: i32,
    pub(super) zombie: bool,
}

impl Stat {
    /// Reads those of a process; `None` if it has ended.
    pub(super) fn of(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The name is in parentheses, and may have any character in it.
        let (before, fields) = text.rsplit_once(')')?;
        let name = before.split_once('(')?.1.to_owned();
        let mut fields = fields.split_whitespace();
        let zombie = fields.next()? == "Z";
        Some(Self { name, parent: fields.next()?.parse().ok()?, zombie })
    }
}

/// The control group by which the processes of a slurmstepd's step are recognized; `None` if the kernel shows no such group, or the
/// process has ended.
#[must_use]
pub fn control_group_of_owner(pid: i32) -> Option<String> {
    owner_control_group(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

/// The control group of the Slurm step that a process is in; `None` if it is in none, or has ended.
fn control_group(pid: i32) -> Option<String> {
    step_control_group(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

/// Collects the facts about a process that names the step's directory; `None` for all others. `has_own_root` says that its root is
/// not the node's.
pub(super) fn evidence(
    pid: i32,
    step: &StepProcesses<'_>,
    identity: &Identity,
    has_own_root: bool,
) -> Option<Evidence> {
    let marker = format!("{}/", step.directory.display()).into_bytes();
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|bytes| names(&bytes, &marker));
    // The mounts of a process whose root is the node's are all of the node's, and irrelevant here.
    let root = has_own_root && root_is_on(pid, &marker);
    if !root && !command_line && !contains(&environment, &marker) {
        return None;
    }
    let ancestor = ancestor(pid, step.owner, identity);
    Some(Evidence { root, command_line, job: job(&environment), control_group: control_group(pid), ancestor })
}

/// The job id in an environment as `/proc/PID/environ` has it.
fn job(environment: &[u8]) -> Option<u32> {
    let value = environment.split(|byte| *byte == 0).find_map(|variable| variable.strip_prefix(JOB_ID))?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Walks from a process up to the init process.
fn ancestor(pid: i32, step_owner: Option<i32>, identity: &Identity) -> Ancestor {
    let mut found = Ancestor::Init;
    let mut current = Stat::of(pid).map_or(INIT, |stat| stat.parent);
    for _ in 0..MAX_ANCESTORS {
        // 0: the parent is outside of the node's PID namespace.
        if current <= INIT {
            break;
        }
        if Some(current) == step_owner {
            return Ancestor::Owner;
        }
        let Some(stat) = Stat::of(current) else { break };
        if stat.name == SLURMSTEPD {
            found = Ancestor::OtherStep;
        } else if found == Ancestor::Init && !is_users(current, identity) {
            found = Ancestor::Service;
        }
        current = stat.parent;
    }
    found
}

/// The device on which a process's root directory lies. A file system that a user made is not asked: it might not answer.
pub(super) fn root_device(process: &str) -> Option<u64> {
    let flags = AtFlags::STATX_DONT_SYNC;
    let found = statx(CWD, format!("/proc/{process}/root"), flags, StatxFlags::empty()).ok()?;
    Some(u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor))
}

/// Returns `true` if the root of the process's mount namespace is an overlay whose writable layer is in the step's directory.
fn root_is_on(pid: i32, marker: &[u8]) -> bool {
    root_mount(pid, |mount| mount.starts_with("overlay ") && contains(mount.as_bytes(), marker))
}

/// Returns `true` if the root is a container's: an overlay, by the kernel or by FUSE.
pub(super) fn root_is_container(pid: i32) -> bool {
    root_mount(pid, |mount| mount.starts_with("overlay ") || mount.starts_with("fuse.fuse-overlayfs "))
}

/// Tests the type, source and options of the root in `/proc/PID/mountinfo`.
fn root_mount(pid: i32, fits: impl Fn(&str) -> bool) -> bool {
    let Ok(mounts) = fs::read_to_string(format!("/proc/{pid}/mountinfo")) else { return false };
    mounts.lines().any(|line| {
        let Some((place, rest)) = line.split_once(" - ") else { return false };
        place.split(' ').nth(4) == Some("/") && fits(rest)
    })
}

/// Returns `true` if a command line names the directory itself (the launcher's) or a path below it. `marker` is the directory with a
/// slash at its end.
fn names(command_line: &[u8], marker: &[u8]) -> bool {
    let directory = marker.strip_suffix(b"/").unwrap_or(marker);
    contains(command_line, marker) || command_line.split(|byte| *byte == 0).any(|word| word == directory)
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_is_read() {
        let parsed = |text| Stat::parse(text);
        let stat = |name: &str, parent, zombie| Some(Stat { name: name.to_owned(), parent, zombie });
        assert_eq!(parsed("9 (sleep) S 7 9 9 0"), stat("sleep", 7, false));
        assert_eq!(parsed("9 (a) R 1 (b)) Z 5 9"), stat("a) R 1 (b)", 5, true));
        assert_eq!(parsed("9 (a"), None);
    }

    #[test]
    fn the_job_is_read_from_an_environment() {
        assert_eq!(job(b"A=1\0SLURM_JOB_ID=42\0B=2\0"), Some(42));
        assert_eq!(job(b"NOT_SLURM_JOB_ID=42\0SLURM_JOB_ID=x\0"), None);
    }

    #[test]
    fn a_command_line_names_the_directory_or_a_path_in_it() {
        let names = |text: &str| names(text.as_bytes(), b"/run/steps/6.0-1a/");
        assert!(names("launch\0run\0/run/steps/6.0-1a\0--\0") && names("fuse\0-o\0upper=/run/steps/6.0-1a/graph"));
        assert!(!names("launch\0run\0/run/steps/6.0-1ab\0") && !names("") && !names("a/run/steps/6.0-1a\0"));
    }

    #[test]
    fn a_process_has_a_root() {
        assert!(root_device("self").is_some());
        assert_eq!(root_device("self"), root_device(&std::process::id().to_string()));
    }

    #[test]
    fn the_parent_is_an_ancestor() {
        let own = rustix::process::getuid().as_raw();
        let ids = || crate::identity::Ids { own, subordinate: Vec::new() };
        let identity = Identity { name: String::new(), home: None, users: ids(), groups: ids(), subid_module: None };
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let owner = i32::try_from(std::process::id()).unwrap();
        assert_eq!(ancestor(pid, Some(owner), &identity), Ancestor::Owner);
        assert_ne!(ancestor(pid, Some(pid), &identity), Ancestor::Owner);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
