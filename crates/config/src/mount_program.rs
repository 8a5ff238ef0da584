//! The section `[mount_program]`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

/// What concerns the mount program. What is not said here is sought in the environment (`PARALLAX_MP_…`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MountProgram {
    /// The program that serves SquashFS files: a path, or a name to be sought on the PATH. None: `squashfuse_ll`, else
    /// `squashfuse`.
    pub squashfuse: Option<PathBuf>,
    /// Further arguments for it.
    pub squashfuse_flags: Vec<String>,
    /// The overlay in user space: a path, or a name to be sought on the PATH. None: `fuse-overlayfs`.
    pub fuse_overlayfs: Option<PathBuf>,
    /// With `gid`: the owner of all files of an image, as a number in the container.
    pub uid: Option<u32>,
    /// With `uid`: the group of all files of an image.
    pub gid: Option<u32>,
    /// How much is logged. None: what was mounted and why so.
    pub log_level: Option<LogLevel>,
    /// The file to log to, in place of the journal or standard error.
    pub log_file: Option<PathBuf>,
    /// How long squashfuse or fuse-overlayfs may take to begin, in seconds (1 to 3600).
    pub start_timeout: u32,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What failed.
    Error,
    /// And what is not as it should be.
    Warning,
    /// And what was done and why so.
    Info,
    /// And each step of it.
    Debug,
}

impl Default for MountProgram {
    fn default() -> Self {
        Self {
            squashfuse: None,
            squashfuse_flags: Vec::new(),
            fuse_overlayfs: None,
            uid: None,
            gid: None,
            log_level: None,
            log_file: None,
            start_timeout: 30,
        }
    }
}

impl MountProgram {
    /// [`MountProgram::start_timeout`] as a duration.
    #[must_use]
    pub fn start_deadline(&self) -> Duration {
        Duration::from_secs(self.start_timeout.into())
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if !(1..=3600).contains(&self.start_timeout) {
            let seconds = self.start_timeout;
            return Err(format!("\"mount_program.start_timeout\" is {seconds}, and must be from 1 to 3600 seconds"));
        }
        if let Some(path) = self.log_file.as_ref().filter(|path| !path.is_absolute()) {
            return Err(format!("the path \"{}\" is not absolute", path.display()));
        }
        if self.uid.is_some() != self.gid.is_some() {
            return Err("\"mount_program.uid\" and \"mount_program.gid\" must be given together".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn the_whole_section() {
        let text = "stores = [\"/s\"]\n[mount_program]\nsquashfuse = \"/opt/squashfuse_ll\"\nsquashfuse_flags = [\"-o\", \"clone_fd\"]\n\
                    fuse_overlayfs = \"fuse-overlayfs\"\nuid = 0\ngid = 0\nlog_level = \"debug\"\nlog_file = \"/var/log/x\"\n\
                    start_timeout = 5\n";
        let section = Config::parse(text).unwrap().mount_program;
        assert_eq!(section.squashfuse, Some("/opt/squashfuse_ll".into()));
        assert_eq!(section.log_level, Some(LogLevel::Debug));
        assert_eq!(section.start_deadline(), Duration::from_secs(5));
        assert_eq!(Config::parse("stores = [\"/s\"]").unwrap().mount_program, MountProgram::default());
    }

    #[test]
    fn wrong_values() {
        for line in ["start_timeout = 0", "log_file = \"log\"", "uid = 5", "log_level = \"loud\"", "squashfs = \"x\""] {
            assert!(Config::parse(&format!("stores = [\"/s\"]\n[mount_program]\n{line}")).is_err(), "{line}");
        }
    }
}
