//! `parallax.toml`, parsed and checked.
//!
//! One file, the same on all nodes, read by the plugin (as the user at submit time, as root on the node), the agent and the
//! command. A key that is not known is an error: a misspelt key that is silently ignored would be found at night.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::keys::{Described as _, section};

mod keys;
mod ladder;
mod mount;
mod mount_program;

pub use keys::{Choice, Key, Section, Shape};
pub use ladder::{Mounts, OnMissing, Owner, Verify};
pub use mount::{BindMount, BindMountError};
pub use mount_program::{LogLevel, MountProgram};

/// Where the file lies unless something else is said.
pub const DEFAULT_PATH: &str = "/etc/parallax/parallax.toml";

/// The most that `agent.keep_warm` may be, in seconds: a week.
const MOST_WARM: u32 = 604_800;

/// The description of the whole file, in its order.
pub const SECTIONS: &[Section] = &[
    Section { name: "", about: &[], keys: &[STORES] },
    Agent::SECTION,
    Step::SECTION,
    Run::SECTION,
    MountProgram::SECTION,
];

/// The description of [`Config::stores`].
const STORES: Key = Key {
    name: "stores",
    description: &[
        "The image stores, absolute paths, searched in this order. Each belongs to whoever runs `parallax migrate` (best root, or an",
        "account of its own that `agent.trusted_owners` names), and nobody else may write in it: the kernel reads what it holds.",
    ],
    shape: Vec::<PathBuf>::SHAPE,
    example: Some("[\"/shared/parallax\"]"),
};

/// The whole file. Every key but `stores` has a default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The image stores, absolute paths, searched in this order.
    pub stores: Vec<PathBuf>,
    /// What concerns the node agent.
    #[serde(default)]
    pub agent: Agent,
    /// What concerns every step.
    #[serde(default)]
    pub step: Step,
    /// What concerns the containers of `run` mode.
    #[serde(default)]
    pub run: Run,
    /// What concerns the mount program.
    #[serde(default)]
    pub mount_program: MountProgram,
}

section! {
    /// The node agent.
    "agent" Agent {
        /// Where the agent keeps its socket, mounts and step stores: an absolute path on a tmpfs. Keep it short: it is part of
        /// every lower directory's path, and all of them must fit into one page for the kernel.
        runtime_dir: PathBuf = PathBuf::from("/run/parallax");
        /// Where the agent writes its metrics for the Prometheus node exporter's textfile collector: an absolute path that ends in
        /// `.prom`, such as `/var/lib/prometheus/node-exporter/parallax.prom`; nowhere if empty.
        metrics_file: PathBuf = PathBuf::new();
        /// How the layers of images are mounted. `parallax doctor` shows what a node can do.
        mounts: Mounts = Mounts::default();
        /// Whose stores the kernel may read. Those of others are only ever mounted by FUSE, as the step's user. A name is looked up when
        /// it matters, so the account may be made later. On a file server with root_squash root can own no store: name the account that
        /// migrates images.
        trusted_owners: Vec<Owner> = vec![Owner::Name("root".to_owned())];
        /// The mount program, for mounts by FUSE.
        mount_program: PathBuf = PathBuf::from("/usr/libexec/parallax/parallax-mount-program");
        /// When a layer's SquashFS file is compared with the SHA-256 recorded at its migration. A file that differs refuses the
        /// step. Reading the file counts as part of `step.start_timeout`.
        verify: Verify = Verify::default();
        /// How long layers that no step uses stay mounted, in seconds (0 to 604800).
        keep_warm: u32 = 0;
        /// Whether the agent notes in the store which images this node uses, where root may write there (not with root_squash):
        /// `parallax rm` then refuses to remove them.
        holds: bool = true;
    }
}

section! {
    /// Every step.
    "step" Step {
        /// How long a step may wait for its image, in seconds (1 to 3600).
        start_timeout: u32 = 60;
        /// How long the end of a step may wait for the cleanup, in seconds (1 to 3600). The cleanup goes on after that.
        end_timeout: u32 = 30;
        /// The size of a step's writable layer and of Podman's own files, in memory, as tmpfs(5) takes it: bytes with `k`, `m` or
        /// `g`, or a percentage of the memory.
        scratch_size: String = "50%".to_owned();
        /// What a step gets whose image is in no store.
        on_missing: OnMissing = OnMissing::default();
    }
}

section! {
    /// The containers of `run` mode.
    "run" Run {
        /// Paths of the node to show in every container. A path that does not exist on a node is left out there.
        mounts: Vec<BindMount> = Vec::new(), example "[\"/scratch\"]";
        /// Whether the user's home directory is shown in the container.
        mount_home: bool = true;
        /// Whether the directory that a step was started in is shown in the container.
        mount_workdir: bool = true;
        /// Path of the Podman program to use.
        podman: PathBuf = PathBuf::from("/usr/bin/podman");
        /// Path of the OCI runtime to use.
        runtime: PathBuf = PathBuf::from("/usr/bin/crun");
    }
}

impl Agent {
    /// The agent's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.runtime_dir.join("agent.sock")
    }

    /// Where the agent writes its metrics, if anywhere.
    #[must_use]
    pub fn metrics_file(&self) -> Option<&Path> {
        Some(self.metrics_file.as_path()).filter(|path| !path.as_os_str().is_empty())
    }

    /// [`Agent::keep_warm`] as a duration.
    #[must_use]
    pub fn idle_time(&self) -> Duration {
        Duration::from_secs(self.keep_warm.into())
    }
}

impl Step {
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
}

/// Why there is no configuration. Each is one sentence that names the file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("can't read {path}: {cause}; the administrator must install it (an example comes with Parallax)")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// The file is not what it must be.
    #[error("{path}{line}: {message}; the administrator must correct it", line = line.map(|n| format!(", line {n}")).unwrap_or_default())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line, from 1, where it is known.
        line: Option<usize>,
        /// What is wrong, without a full stop.
        message: String,
    },
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`], one sentence that names the file, the line and what is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|cause| ConfigError::Read { path: path.to_owned(), cause })?;
        Self::parse(&text).map_err(|(line, message)| ConfigError::Parse { path: path.to_owned(), line, message })
    }

    /// Parses and checks a text; an error is the line, from 1, where it is known, and what is wrong.
    ///
    /// # Errors
    /// A text that is not TOML, an unknown key, a wrong type, a value out of its range.
    pub fn parse(text: &str) -> Result<Self, (Option<usize>, String)> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| 1 + text.bytes().take(span.start).filter(|&b| b == b'\n').count());
            (line, error.message().lines().collect::<Vec<_>>().join(" "))
        })?;
        config.check().map_err(|message| (None, message))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if self.stores.is_empty() {
            return Err("\"stores\" is empty: name at least one directory".to_owned());
        }
        if let Some(path) = self.agent.metrics_file() {
            if !path.is_absolute() || path.extension().is_none_or(|extension| extension != "prom") {
                return Err(format!(
                    "\"agent.metrics_file\" is \"{}\", and must be an absolute path that ends in .prom",
                    path.display()
                ));
            }
        }
        let programs = [&self.agent.mount_program, &self.run.podman, &self.run.runtime];
        let absolute = self.stores.iter().chain([&self.agent.runtime_dir]).chain(programs);
        if let Some(path) = absolute.into_iter().find(|path| !path.is_absolute()) {
            return Err(format!("the path \"{}\" is not absolute", path.display()));
        }
        for (key, seconds) in [("start_timeout", self.step.start_timeout), ("end_timeout", self.step.end_timeout)] {
            if !(1..=3600).contains(&seconds) {
                return Err(format!("\"step.{key}\" is {seconds}, and must be from 1 to 3600 seconds"));
            }
        }
        if self.agent.keep_warm > MOST_WARM {
            let seconds = self.agent.keep_warm;
            return Err(format!("\"agent.keep_warm\" is {seconds}, and must be from 0 to {MOST_WARM} seconds"));
        }
        self.mount_program.check()?;
        if !is_tmpfs_size(&self.step.scratch_size) {
            return Err(format!(
                "\"step.scratch_size\" is \"{}\", and must be like \"8g\" or \"50%\"",
                self.step.scratch_size
            ));
        }
        Ok(())
    }
}

fn is_tmpfs_size(text: &str) -> bool {
    let digits = text.strip_suffix(['k', 'm', 'g', 'K', 'M', 'G', '%']).unwrap_or(text);
    !digits.is_empty() && digits.len() <= 15 && digits.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> (Option<usize>, String) {
        Config::parse(text).unwrap_err()
    }

    #[test]
    fn the_stores_are_enough() {
        let config = Config::parse("stores = [\"/shared/store\"]").unwrap();
        assert_eq!(config.stores, [PathBuf::from("/shared/store")]);
        assert_eq!(config.agent.socket(), PathBuf::from("/run/parallax/agent.sock"));
        assert_eq!(config.step.start_deadline(), Duration::from_secs(60));
    }

    #[test]
    fn what_the_ladder_is_told() {
        let text = "stores = [\"/s\"]\n[agent]\nmounts = \"fuse\"\nverify = \"first\"\nkeep_warm = 90\n\
                    trusted_owners = [0, \"images\"]\n[step]\non_missing = \"pull\"\n";
        let config = Config::parse(text).unwrap();
        let Agent { mounts, verify, trusted_owners, .. } = &config.agent;
        assert_eq!((*mounts, *verify), (Mounts::Fuse, Verify::First));
        assert_eq!(*trusted_owners, [Owner::Id(0), Owner::Name("images".to_owned())]);
        assert_eq!((config.agent.idle_time(), config.step.on_missing), (Duration::from_secs(90), OnMissing::Pull));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let (line, message) = error("stores = [\"/s\"]\n\n[agent]\nruntme_dir = \"/run/x\"\n");
        assert_eq!(line, Some(4));
        assert!(message.contains("runtme_dir"), "{message}");
    }

    #[test]
    fn a_wrong_type_is_named_with_its_line() {
        let (line, message) = error("stores = \"/s\"");
        assert_eq!(line, Some(1));
        assert!(message.contains("expected a sequence"), "{message}");
    }

    #[test]
    fn values_out_of_their_range_are_refused() {
        for text in [
            "stores = []",
            "stores = [\"relative\"]",
            "stores = [\"/s\"]\n[step]\nstart_timeout = 0",
            "stores = [\"/s\"]\n[step]\nend_timeout = 99999",
            "stores = [\"/s\"]\n[step]\nscratch_size = \"much\"",
            "stores = [\"/s\"]\n[step]\nscratch_size = \"1g,mode=0\"",
            "stores = [\"/s\"]\n[agent]\nmetrics_file = \"parallax.prom\"",
            "stores = [\"/s\"]\n[agent]\nmetrics_file = \"/metrics\"",
            "stores = [\"/s\"]\n[run]\npodman = \"podman\"",
            "stores = [\"/s\"]\n[run]\nmounts = [\"data\"]",
            "stores = [\"/s\"]\n[agent]\nmounts = \"kernel\"",
            "stores = [\"/s\"]\n[agent]\nverify = true",
            "stores = [\"/s\"]\n[agent]\nkeep_warm = 604801",
            "stores = [\"/s\"]\n[agent]\nkeep_warm = -1",
            "stores = [\"/s\"]\n[agent]\nmount_program = \"parallax-mount-program\"",
            "stores = [\"/s\"]\n[agent]\ntrusted_owners = [-1]",
            "stores = [\"/s\"]\n[step]\non_missing = \"run\"",
            "not toml",
        ] {
            assert!(!error(text).1.contains('\n'), "{text}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let message = Config::load(Path::new("/nonexistent/parallax.toml")).unwrap_err().to_string();
        assert!(message.contains("/nonexistent/parallax.toml"), "{message}");
    }
}
