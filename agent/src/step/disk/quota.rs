//! The limit of a step's directory on the disk, by a project quota.
//!
//! A step has a project of its own, which its directory has and whatever is made in it inherits. The limit is lifted before the directory is
//! removed, so a project without files is free again. No list of projects is kept that a power cut could leave wrong: a project is in
//! use if the file system counts something for it, or if it has limits.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use parallax_config::Step;
use parallax_sys::project_quota;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstatvfs, openat};

use crate::step::scratch::bytes;

/// Bytes of the limit for each file that a step may have, as for files in memory.
const BYTES_PER_FILE: u64 = 4096;

/// The limit of steps' directories, and the projects that they may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    size: String,
    projects: RangeInclusive<u32>,
}

impl Quota {
    /// The limit that is configured; `None` for steps without one.
    #[must_use]
    pub fn of(config: &Step) -> Option<Self> {
        let size = config.scratch_quota.clone();
        (!size.is_empty()).then(|| Self { size, projects: config.projects() })
    }

    /// Puts a directory into a project that nothing on its file system is in, and limits the project. `steps` is the directory of all steps.
    pub(super) fn apply(&self, steps: &OwnedFd, directory: &OwnedFd) -> io::Result<()> {
        let total = fstatvfs(steps)?;
        let bytes =
            bytes(&self.size, total.f_blocks.saturating_mul(total.f_frsize)).ok_or(io::ErrorKind::InvalidInput)?;
        // For other threads, and other agents with the same disk. Ends with the descriptor.
        let lock = openat(steps, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        flock(&lock, FlockOperation::LockExclusive)?;
        for project in self.projects.clone() {
            if !project_quota::is_in_use(steps, project)? {
                project_quota::set(directory, project)?;
                return project_quota::limit(steps, project, bytes, bytes.div_ceil(BYTES_PER_FILE));
            }
        }
        let (first, last) = (self.projects.start(), self.projects.end());
        Err(io::Error::other(format!(
            "all projects from {first} to {last} are in use on its file system; set others in \"step.scratch_projects\""
        )))
    }
}

/// Takes a directory of root's out of its project and lifts the project's limit. One that is in no project stays as it is.
pub(super) fn lift(directory: &OwnedFd) -> io::Result<()> {
    // A file system that knows no projects has no limits to lift.
    let project = project_quota::of_directory(directory).unwrap_or_default();
    if project == 0 {
        return Ok(());
    }
    // Limits that are not enforced now can be set in the file system all the same.
    let lifted = project_quota::limit(directory, project, 0, 0);
    if project_quota::are_enforced(directory) {
        lifted?;
    }
    project_quota::set(directory, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_size_there_is_no_limit() {
        assert_eq!(Quota::of(&Step::default()), None);
        let step = Step { scratch_quota: "10g".to_owned(), scratch_projects: vec![7, 9], ..Step::default() };
        assert_eq!(Quota::of(&step), Some(Quota { size: "10g".to_owned(), projects: 7..=9 }));
    }

    #[test]
    fn a_directory_without_a_project_stays_as_it_is() {
        let place = tempfile::tempdir().unwrap();
        lift(&std::fs::File::open(place.path()).unwrap().into()).unwrap();
        assert!(place.path().exists());
    }
}
