//! The process of a job on this node that lives as long as the job, and so owns the containers that the job's steps share.
//!
//! That is the slurmstepd of the job's extern step, which Slurm starts on every node of a job with `PrologFlags=Contain`. On the node of a
//! batch script or of salloc's shell that one's slurmstepd does, too: their end is the job's. No hook of the plugin is called at
//! the end of a job, unless slurmd starts a process for it at the end of every job, with and without an image.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use parallax_protocol::message::{BATCH_SCRIPT, EXTERN_CONT, INTERACTIVE_STEP, StepId};

use crate::journal::Owner;

/// The numbers of the steps that last as long as their job, the best first.
const LASTING: [u32; 3] = [EXTERN_CONT, BATCH_SCRIPT, INTERACTIVE_STEP];
/// The name of a slurmstepd in its status.
const NAME: &str = "slurmstepd";
/// What the command line of a slurmstepd begins with; the step in brackets follows (`setproctitle`, Slurm 23.11 to 26.05).
const TITLE: &str = "slurmstepd: [";

/// Returns the process of a job on this node. `of_step` is the slurmstepd of one of the job's steps.
pub(super) fn of_job(job: u32, of_step: Owner) -> Option<Owner> {
    let program = program(of_step.pid_if_alive()?)?;
    let processes = fs::read_dir("/proc").ok()?;
    let numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let candidates = numbers.filter(|pid| is_slurmstepd(*pid));
    let lasting =
        candidates.filter_map(|pid| Some((LASTING.iter().position(|step| Some(*step) == step_of(pid, job))?, pid)));
    let mut lasting: Vec<(usize, i32)> = lasting.collect();
    lasting.sort_unstable();
    lasting.into_iter().find_map(|(_, pid)| {
        let owner = Owner::of(pid).ok()?;
        // After its start time is known: a title can be anything that the process wants it to be.
        (program_of_root(pid)? == program && step_of(pid, job).is_some()).then_some(owner)
    })
}

/// Whether a process may be a slurmstepd. To be asked before its command line is read: that waits for the process's memory map, which a
/// process of a user can keep locked for as long as it likes, and its status does not.
fn is_slurmstepd(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| is_slurmstepd_of_root(&status))
}

/// Whether a status (`proc_pid_status(5)`) is that of a slurmstepd of root's; for a while one has its user's effective id.
fn is_slurmstepd_of_root(status: &str) -> bool {
    let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    value("Name:") == Some(NAME) && value("Uid:") == Some("0")
}

/// The number of the job's step whose slurmstepd a process says it is.
fn step_of(pid: i32, job: u32) -> Option<u32> {
    step_in_title(&fs::read(format!("/proc/{pid}/cmdline")).ok()?, job)
}

fn step_in_title(title: &[u8], job: u32) -> Option<u32> {
    let title = std::str::from_utf8(title).ok()?.trim_end_matches(['\0', ' ']);
    let (of, step) = StepId::numbers(title.strip_prefix(TITLE)?.strip_suffix(']')?).ok()?;
    (of == job).then_some(step)
}

/// The program of a process of root; `None` for processes of others, and of root's programs that were started for others.
fn program_of_root(pid: i32) -> Option<PathBuf> {
    (fs::metadata(format!("/proc/{pid}")).ok()?.uid() == 0).then(|| program(pid))?
}

/// The path of the file that a process executes. After an update of the program the old file has no name any more.
fn program(pid: i32) -> Option<PathBuf> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let text = path.to_str()?;
    Some(PathBuf::from(text.strip_suffix(" (deleted)").unwrap_or(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_name_the_step() {
        assert_eq!(step_in_title(b"slurmstepd: [12.extern]\0\0\0", 12), Some(EXTERN_CONT));
        assert_eq!(step_in_title(b"slurmstepd: [12.batch]", 12), Some(BATCH_SCRIPT));
        assert_eq!(step_in_title(b"slurmstepd: [12.0]", 12), Some(0));
        for title in ["slurmstepd: [13.extern]", "slurmstepd: [12.extern", "slurmstepd: 12.extern]", "sh\0-c", ""] {
            assert_eq!(step_in_title(title.as_bytes(), 12), None, "{title}");
        }
    }

    #[test]
    fn others_are_not_looked_at() {
        let status = |name: &str, uid: u32| format!("Name:\t{name}\nUmask:\t0022\nUid:\t{uid}\t1001\t0\t0\n");
        assert!(is_slurmstepd_of_root(&status("slurmstepd", 0)));
        assert!(!is_slurmstepd_of_root(&status("slurmstepd", 1001)) && !is_slurmstepd_of_root(&status("sh", 0)));
    }

    #[test]
    fn a_process_has_a_program() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(program(own), std::env::current_exe().ok());
        assert_eq!(of_job(u32::MAX, Owner::of(own).unwrap()), None);
    }
}
