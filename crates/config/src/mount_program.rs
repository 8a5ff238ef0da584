//! The section `[mount_program]`.

use std::path::PathBuf;
use std::time::Duration;

use crate::keys::{choices, section};

section! {
    /// Podman's mount program on hosts without an agent, parallax-mount-program(1). Its environment variables (`PARALLAX_MP_...`) and
    /// the configuration file of the shell script that it replaces override this section.
    "mount_program" MountProgram {
        /// Program that serves SquashFS files: a path, or a name searched in PATH. Default: `squashfuse_ll`, else `squashfuse`.
        squashfuse: Option<PathBuf> = None, example "\"/opt/bin/squashfuse_ll\"";
        /// Additional arguments for squashfuse.
        squashfuse_flags: Vec<String> = Vec::new();
        /// Overlay in user space: a path, or a name searched in PATH. Default: `fuse-overlayfs`.
        fuse_overlayfs: Option<PathBuf> = None, example "\"/opt/bin/fuse-overlayfs\"";
        /// Owner of all files of an image, as a number in the container. Must be set together with `gid`.
        uid: Option<u32> = None, example "0";
        /// Group of all files of an image, as a number in the container. Must be set together with `uid`.
        gid: Option<u32> = None, example "0";
        /// Log level. Default: `info`.
        log_level: Option<LogLevel> = None, example "\"info\"";
        /// File to log to, instead of the journal or standard error. At 1 MiB the file is renamed to `<log_file>.1`, which replaces the
        /// previous one.
        log_file: Option<PathBuf> = None, example "\"/var/log/parallax-mount.log\"";
        /// Timeout for the start of squashfuse or fuse-overlayfs, in seconds (1 to 3600).
        start_timeout: u32 = 30;
    }
}

choices! {
    /// Log level.
    LogLevel {
        /// Errors only.
        Error = "error";
        /// Errors and warnings.
        Warning = "warning";
        /// In addition each mount, with the reason for its backend.
        Info = "info";
        /// In addition each step of a mount.
        Debug = "debug";
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
            return Err(format!("invalid \"mount_program.start_timeout\": {seconds} is not from 1 to 3600 seconds"));
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
