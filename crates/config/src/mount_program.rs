//! The section `[mount_program]`.

use std::path::PathBuf;
use std::time::Duration;

use crate::keys::{choices, section};

section! {
    /// Podman's mount program, parallax-mount-program(1), where there is no agent. Its environment variables (`PARALLAX_MP_...`) and
    /// the configuration file of the script that it replaces override this section.
    "mount_program" MountProgram {
        /// The program that serves SquashFS files, a path or a name searched on the PATH. Default: `squashfuse_ll`, else `squashfuse`.
        squashfuse: Option<PathBuf> = None, example "\"/opt/bin/squashfuse_ll\"";
        /// Further arguments for it.
        squashfuse_flags: Vec<String> = Vec::new();
        /// The overlay in user space, a path or a name searched on the PATH. Default: `fuse-overlayfs`.
        fuse_overlayfs: Option<PathBuf> = None, example "\"/opt/bin/fuse-overlayfs\"";
        /// With `gid`: the owner of all files of an image, as a number in the container.
        uid: Option<u32> = None, example "0";
        /// With `uid`: the group of all files of an image, as a number in the container.
        gid: Option<u32> = None, example "0";
        /// How much is logged. Default: `info`.
        log_level: Option<LogLevel> = None, example "\"info\"";
        /// A file to log to, in place of the journal or standard error. At 1 MiB it is renamed to `<log_file>.1`, in place of the one
        /// before.
        log_file: Option<PathBuf> = None, example "\"/var/log/parallax-mount.log\"";
        /// How long squashfuse or fuse-overlayfs may take to start, in seconds (1 to 3600).
        start_timeout: u32 = 30;
    }
}

choices! {
    /// How much is logged.
    LogLevel {
        /// What failed.
        Error = "error";
        /// And what is not as it should be.
        Warning = "warning";
        /// And what was mounted and why so.
        Info = "info";
        /// And each step of it.
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
