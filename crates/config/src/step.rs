//! The section of every step.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::choices::{OnMissing, OnUnreachable, is_tmpfs_size};
use crate::keys::section;

section! {
    /// Every step.
    "step" Step {
        /// Timeout of a step that waits for its image, in seconds (1 to 3600).
        start_timeout: u32 = 60;
        /// Timeout of the end of a step that waits for the cleanup, in seconds (1 to 3600). The cleanup continues after the timeout.
        end_timeout: u32 = 30;
        /// Directory on a disk of the node for the writable layers of steps and for the files of their Podman: an absolute path without
        /// symbolic links. The directory must exist and belong to root, and nobody else may write there unless it is sticky. Each step has
        /// a directory of its own below it, which is removed with the step, or at the agent's next start. Empty: in memory.
        scratch: PathBuf = PathBuf::new(), example "\"/local/scratch\"";
        /// Maximum size of a step's files in memory, which are the writable layer and Podman's own files unless `step.scratch` is set. The
        /// format is that of tmpfs(5): bytes with `k`, `m` or `g`, or a percentage of the memory. `step.scratch_quota` limits what is on the disk.
        scratch_size: String = "50%".to_owned();
        /// Maximum size of a step's files in `step.scratch`: bytes with `k`, `m` or `g`, or a percentage of the file system. It needs a
        /// file system that is mounted with project quotas (`prjquota`; ext4, XFS); on another one there is no limit. Empty: no limit.
        scratch_quota: String = String::new(), example "\"100g\"";
        /// First and last number of the projects that steps may have for `step.scratch_quota` (1 to 4294967294). A project for which
        /// the file system counts files, or that has limits, is not taken.
        scratch_projects: Vec<u32> = vec![1_879_048_192, 1_879_113_727];
        /// What happens to a step whose image is in no store.
        on_missing: OnMissing = OnMissing::default();
        /// What happens to a step if a store or a repository in which its image may be is missing or does not respond. `error`: the step
        /// fails with the reason. `wait:SECONDS`: the step waits for it, for less than `step.start_timeout`. `pull`: Podman pulls the image, as
        /// with `step.on_missing`; if the job was submitted where the image's id is known, the step runs that image or fails.
        on_unreachable: OnUnreachable = OnUnreachable::default();
    }
}

impl Step {
    /// Returns the directory for writable layers, if one is configured.
    #[must_use]
    pub fn scratch(&self) -> Option<&Path> {
        Some(self.scratch.as_path()).filter(|path| !path.as_os_str().is_empty())
    }

    /// Returns the projects that steps may have.
    #[must_use]
    pub fn projects(&self) -> RangeInclusive<u32> {
        match *self.scratch_projects.as_slice() {
            [first, last] => first..=last,
            // Refused by the check.
            _ => RangeInclusive::new(1, 0),
        }
    }

    /// [`Step::start_timeout`] as a duration.
    #[must_use]
    pub fn start_deadline(&self) -> Duration {
        Duration::from_secs(self.start_timeout.into())
    }

    /// [`Step::end_timeout`] as a duration.
    #[must_use]
    pub fn end_deadline(&self) -> Duration {
        Duration::from_secs(self.end_timeout.into())
    }

    /// Checks the values.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (key, seconds) in [("start_timeout", self.start_timeout), ("end_timeout", self.end_timeout)] {
            if !(1..=3600).contains(&seconds) {
                return Err(format!("invalid \"step.{key}\": {seconds} is not from 1 to 3600 seconds"));
            }
        }
        self.on_unreachable.check(self.start_timeout)?;
        if !is_tmpfs_size(&self.scratch_size) {
            return Err(format!(
                "invalid \"step.scratch_size\": \"{}\" is not a size such as \"8g\" or \"50%\"",
                self.scratch_size
            ));
        }
        if !self.scratch_quota.is_empty() && !is_tmpfs_size(&self.scratch_quota) {
            let quota = &self.scratch_quota;
            return Err(format!(
                "invalid \"step.scratch_quota\": \"{quota}\" is not a size such as \"100g\" or \"10%\""
            ));
        }
        let projects = self.projects();
        if projects.is_empty() || *projects.start() == 0 || *projects.end() == u32::MAX {
            return Err(
                "invalid \"step.scratch_projects\": not a first and a last number from 1 to 4294967294".to_owned()
            );
        }
        Ok(())
    }
}
