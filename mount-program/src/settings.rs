//! A site's settings: `/etc/parallax/parallax.toml`, the environment, and the configuration file of the script that this program
//! replaces. Each source overrides the previous ones; in the script, too, the file overrode the environment.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use parallax_config::{Config, ConfigError, LogLevel, MountProgram};
use parallax_format::LayerFormat;

use crate::assignments::{self, Assignment, AssignmentError};
use crate::programs::Programs;

/// Default path of the script's configuration, overridden by `PARALLAX_MP_CONFIG`.
const SCRIPTS_FILE: &str = "/etc/parallax-mount.conf";
/// Variables of the script that this program does not need.
const UNUSED: [&str; 4] = [
    "PARALLAX_MP_TMPDIR",
    "PARALLAX_MP_INOTIFYWAIT_CMD",
    "PARALLAX_MP_UMOUNT_WAIT_RETRIES",
    "PARALLAX_MP_UMOUNT_WAIT_DELAY",
];

/// Programs, timeout and logging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The programs that serve SquashFS.
    pub squashfuse: Programs,
    /// Arguments for it, before all others.
    pub squashfuse_flags: Vec<OsString>,
    /// The program that serves EROFS.
    pub erofsfuse: Programs,
    /// The program that serves files in chunks.
    pub lazy: Programs,
    /// The overlay in user space.
    pub fuse_overlayfs: Programs,
    /// Timeout for the start of each program.
    pub timeout: Duration,
    /// Log level.
    pub log_level: LogLevel,
    /// Log file, if any.
    pub log_file: Option<PathBuf>,
}

/// Settings, and messages about them for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// The effective settings.
    pub settings: Settings,
    /// Messages about unusual settings.
    pub notes: Vec<(LogLevel, String)>,
}

/// Error of reading the settings.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// The configuration file is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The script's configuration file is invalid.
    #[error(transparent)]
    Assignments(#[from] AssignmentError),
    /// A value is invalid.
    #[error("{name} is \"{value}\", and must be {must}")]
    Value {
        /// The variable.
        name: String,
        /// Its value.
        value: String,
        /// The permitted values.
        must: &'static str,
    },
}

/// Reads all settings. Neither `parallax.toml` nor the other file need exist.
pub(crate) fn load(get: impl Fn(&str) -> Option<OsString>) -> Result<Found, SettingsError> {
    let section = match Config::load(Path::new(parallax_config::DEFAULT_PATH)) {
        Ok(config) => config.mount_program,
        Err(ConfigError::Read { cause, .. }) if cause.kind() == std::io::ErrorKind::NotFound => MountProgram::default(),
        Err(error) => return Err(error.into()),
    };
    let mut notes = Vec::new();
    let named = get("PARALLAX_MP_CONFIG").filter(|path| !path.is_empty());
    let path = named.as_deref().map_or(Path::new(SCRIPTS_FILE), Path::new);
    let assigned = match std::fs::read(path) {
        Ok(text) => assignments::read(&text, path, &get, &mut |note| notes.push((LogLevel::Warning, note)))?,
        Err(error) => {
            if named.is_some() {
                notes.push((
                    LogLevel::Warning,
                    format!("PARALLAX_MP_CONFIG, {}, cannot be read: {error}", path.display()),
                ));
            }
            Vec::new()
        }
    };
    let mut settings = Settings::from_section(&section);
    let mut values = Variables { get: &get, assigned: &assigned, file: path };
    settings.overlay(&mut values)?;
    for name in UNUSED {
        if values.value(name).is_some() {
            notes.push((LogLevel::Debug, format!("{name} is not needed and not used")));
        }
    }
    Ok(Found { settings, notes })
}

/// The variables, those that the script's file assigns before those of the environment.
struct Variables<'a> {
    get: &'a dyn Fn(&str) -> Option<OsString>,
    assigned: &'a [Assignment],
    /// The script's file.
    file: &'a Path,
}

impl Variables<'_> {
    /// Returns a value that is not empty: an empty value means the default.
    fn value(&self, name: &str) -> Option<OsString> {
        let assigned = self.assigned.iter().rev().find(|assignment| assignment.name == name);
        assigned
            .map_or_else(|| (self.get)(name), |assignment| Some(assignment.value.clone()))
            .filter(|value| !value.is_empty())
    }

    /// Returns the variable's name, with the file that assigns it.
    fn origin(&self, name: &str) -> String {
        if self.assigned.iter().any(|assignment| assignment.name == name) {
            format!("{name} in {}", self.file.display())
        } else {
            name.to_owned()
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        self.value(name).map(|value| value.to_string_lossy().into_owned())
    }

    /// Returns a value that is a number.
    fn number(&self, name: &str) -> Result<Option<u32>, SettingsError> {
        let Some(value) = self.text(name) else { return Ok(None) };
        let wrong = |_| SettingsError::Value { name: name.to_owned(), value: value.clone(), must: "a number" };
        value.parse().map(Some).map_err(wrong)
    }
}

impl Settings {
    fn from_section(section: &MountProgram) -> Self {
        let of_section = |key: &str| format!("mount_program.{key} in {}", parallax_config::DEFAULT_PATH);
        let mut flags: Vec<OsString> = section.squashfuse_flags.iter().map(OsString::from).collect();
        flags.extend(section.uid.zip(section.gid).map(owner).into_iter().flatten());
        Self {
            squashfuse: section.squashfuse.as_ref().map_or_else(
                || Programs::default_of(&["squashfuse_ll", "squashfuse"]),
                |program| Programs::named(program, of_section("squashfuse")),
            ),
            squashfuse_flags: flags,
            erofsfuse: Programs::default_of(&["erofsfuse"]),
            lazy: Programs::of_parallax("parallax-lazy"),
            fuse_overlayfs: section.fuse_overlayfs.as_ref().map_or_else(
                || Programs::default_of(&["fuse-overlayfs"]),
                |program| Programs::named(program, of_section("fuse_overlayfs")),
            ),
            timeout: section.start_deadline(),
            log_level: section.log_level.unwrap_or(LogLevel::Info),
            log_file: section.log_file.clone(),
        }
    }

    /// Returns the programs that serve files in a format, and their arguments before all others.
    pub(crate) fn server(&self, format: LayerFormat) -> (&Programs, &[OsString]) {
        match format {
            LayerFormat::Squashfs => (&self.squashfuse, &self.squashfuse_flags),
            LayerFormat::Erofs => (&self.erofsfuse, &[]),
        }
    }

    /// Overrides the settings by variables.
    fn overlay(&mut self, variables: &mut Variables<'_>) -> Result<(), SettingsError> {
        if let Some(program) = variables.value("PARALLAX_MP_SQUASHFUSE_CMD") {
            self.squashfuse = Programs::named(program, variables.origin("PARALLAX_MP_SQUASHFUSE_CMD"));
        }
        if let Some(program) = variables.value("PARALLAX_MP_FUSE_OVERLAYFS_CMD") {
            self.fuse_overlayfs = Programs::named(program, variables.origin("PARALLAX_MP_FUSE_OVERLAYFS_CMD"));
        }
        let (uid, gid) = (variables.number("PARALLAX_MP_UID")?, variables.number("PARALLAX_MP_GID")?);
        let flags = variables.text("PARALLAX_MP_SQUASHFUSE_FLAG");
        if flags.is_some() || gid.is_some() {
            self.squashfuse_flags = flags.unwrap_or_default().split_whitespace().map(OsString::from).collect();
        }
        // As in the script, whose user id is by default its own in Podman's namespace: there everybody is 0.
        self.squashfuse_flags.extend(gid.map(|gid| owner((uid.unwrap_or(0), gid))).into_iter().flatten());
        if let Some(seconds) = variables.number("PARALLAX_MP_START_TIMEOUT")? {
            if !(1..=3600).contains(&seconds) {
                return Err(SettingsError::Value {
                    name: "PARALLAX_MP_START_TIMEOUT".to_owned(),
                    value: seconds.to_string(),
                    must: "from 1 to 3600 seconds",
                });
            }
            self.timeout = Duration::from_secs(seconds.into());
        }
        if let Some(level) = variables.text("PARALLAX_MP_LOGLEVEL") {
            // The script took any word, and so must this.
            self.log_level = match level.to_ascii_lowercase().as_str() {
                "error" | "err" | "fatal" | "critical" | "none" => LogLevel::Error,
                "warn" | "warning" => LogLevel::Warning,
                "debug" | "trace" => LogLevel::Debug,
                _ => LogLevel::Info,
            };
        }
        if let Some(file) = variables.value("PARALLAX_MP_LOGFILE") {
            self.log_file = Some(file.into());
        }
        Ok(())
    }
}

/// Returns the arguments for squashfuse that set one owner for all files, for images with ids that the user lacks.
fn owner((uid, gid): (u32, u32)) -> [OsString; 2] {
    ["-o".into(), format!("uid={uid},gid={gid}").into()]
}

/// Returns the value of a variable of the environment.
pub(crate) fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(OsStr::new(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(values: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let get = |name: &str| values.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        let mut settings = Settings::from_section(&MountProgram::default());
        settings.overlay(&mut Variables { get: &get, assigned: &[], file: Path::new(SCRIPTS_FILE) })?;
        Ok(settings)
    }

    #[test]
    fn the_defaults() {
        let settings = with(&[("PARALLAX_MP_SQUASHFUSE_CMD", "")]).unwrap();
        assert_eq!(settings.squashfuse.names, ["squashfuse_ll", "squashfuse"]);
        assert_eq!(settings.fuse_overlayfs.names, ["fuse-overlayfs"]);
        assert_eq!(settings.timeout, Duration::from_secs(30));
        assert!(settings.squashfuse_flags.is_empty() && settings.log_level == LogLevel::Info);
    }

    #[test]
    fn what_a_site_sets() {
        let settings = with(&[
            ("PARALLAX_MP_SQUASHFUSE_CMD", "/opt/squashfuse_ll"),
            ("PARALLAX_MP_SQUASHFUSE_FLAG", " -s  -o clone_fd"),
            ("PARALLAX_MP_UID", "1000"),
            ("PARALLAX_MP_GID", "100"),
            ("PARALLAX_MP_LOGLEVEL", "DEBUG"),
            ("PARALLAX_MP_START_TIMEOUT", "2"),
            ("PARALLAX_MP_LOGFILE", "/log"),
        ])
        .unwrap();
        assert_eq!(settings.squashfuse, Programs::named("/opt/squashfuse_ll", "PARALLAX_MP_SQUASHFUSE_CMD"));
        assert_eq!(settings.squashfuse_flags, ["-s", "-o", "clone_fd", "-o", "uid=1000,gid=100"]);
        assert_eq!((settings.log_level, settings.timeout), (LogLevel::Debug, Duration::from_secs(2)));
        assert_eq!(settings.log_file, Some("/log".into()));
    }

    #[test]
    fn a_group_alone_is_the_users_own_and_a_user_alone_is_nothing() {
        assert_eq!(with(&[("PARALLAX_MP_GID", "7")]).unwrap().squashfuse_flags, ["-o", "uid=0,gid=7"]);
        assert!(with(&[("PARALLAX_MP_UID", "7")]).unwrap().squashfuse_flags.is_empty());
    }

    #[test]
    fn wrong_values_are_named() {
        for (name, value) in
            [("PARALLAX_MP_UID", "me"), ("PARALLAX_MP_START_TIMEOUT", "0"), ("PARALLAX_MP_START_TIMEOUT", "1 min")]
        {
            let message = with(&[(name, value)]).unwrap_err().to_string();
            assert!(message.contains(name) && message.contains(value), "{message}");
        }
    }

    #[test]
    fn the_scripts_file_goes_before_the_environment() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("parallax-mount.conf");
        std::fs::write(&file, "PARALLAX_MP_SQUASHFUSE_CMD=/of/file\nPARALLAX_MP_TMPDIR=/tmp/x\nulimit -n 1\n").unwrap();
        let found = load(|name| match name {
            "PARALLAX_MP_CONFIG" => Some(file.clone().into()),
            "PARALLAX_MP_SQUASHFUSE_CMD" => Some("/of/environment".into()),
            "PARALLAX_MP_FUSE_OVERLAYFS_CMD" => Some("/of/environment".into()),
            _ => None,
        })
        .unwrap();
        let of_file = format!("PARALLAX_MP_SQUASHFUSE_CMD in {}", file.display());
        assert_eq!(found.settings.squashfuse, Programs::named("/of/file", of_file));
        assert_eq!(found.settings.fuse_overlayfs, Programs::named("/of/environment", "PARALLAX_MP_FUSE_OVERLAYFS_CMD"));
        let levels: Vec<LogLevel> = found.notes.iter().map(|(level, _)| *level).collect();
        assert_eq!(levels, [LogLevel::Warning, LogLevel::Debug], "{:?}", found.notes);
    }
}
