//! `parallax.toml`, parsed and checked.
//!
//! One file, the same on all nodes, read by the plugin (as the user at submit time, as root on the node), the agent and the
//! command. An unknown key is an error: a misspelt key that is silently ignored would be noticed only when it matters.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parallax_format::device::WantedDevice;
use serde::{Deserialize, Serialize};

use crate::keys::{Described as _, section};

mod choices;
mod keys;
mod lazy;
mod mount;
mod mount_program;
mod obsolete;
mod step;
mod trees;

pub use choices::{LayerReads, Mounts, OnMissing, OnUnreachable, Owner, Tmp, Verify};
pub use keys::{Choice, Key, Section, Shape};
pub use lazy::Lazy;
pub use mount::{BindMount, BindMountError};
pub use mount_program::{LogLevel, MountProgram};
pub use step::Step;
pub use trees::Trees;

/// Default path of the file.
pub const DEFAULT_PATH: &str = "/etc/parallax/parallax.toml";

/// Upper limit of `agent.keep_warm` in seconds: a week.
const MAX_KEEP_WARM: u32 = 604_800;

/// The directories in which the tools of the Container Device Interface put specifications, those of lower priority first.
const CDI_DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// The description of the whole file, in its order.
pub const SECTIONS: &[Section] = &[
    Section { name: "", about: &[], keys: &[STORES] },
    Trees::SECTION,
    Lazy::SECTION,
    Agent::SECTION,
    Step::SECTION,
    Run::SECTION,
    MountProgram::SECTION,
];

/// The description of [`Config::stores`].
const STORES: Key = Key {
    name: "stores",
    description: &[
        "The image stores, absolute paths, searched in this order. Each store belongs to the account that runs `parallax migrate` (root,",
        "or a dedicated account in `agent.trusted_owners`). No other account may have write access: the kernel reads the store's files.",
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
    /// Images that lie unpacked in directories of the node.
    #[serde(default)]
    pub trees: Trees,
    /// Layers whose chunks are fetched as they are read.
    #[serde(default)]
    pub lazy: Lazy,
    /// Settings of the node agent.
    #[serde(default)]
    pub agent: Agent,
    /// Settings of every step.
    #[serde(default)]
    pub step: Step,
    /// Settings of the containers of `run` mode.
    #[serde(default)]
    pub run: Run,
    /// Settings of the mount program.
    #[serde(default)]
    pub mount_program: MountProgram,
    /// Keys of the file that have lost their meaning ([`Config::warning`]).
    #[serde(skip)]
    pub obsolete: Vec<String>,
}

section! {
    /// The node agent.
    "agent" Agent {
        /// Directory for the agent's socket, mounts and step stores: an absolute path on a tmpfs. Keep the path short: it is part of
        /// every lower directory's path, and the kernel limits all lower directories of a mount to one page.
        runtime_dir: PathBuf = PathBuf::from("/run/parallax");
        /// File for the agent's metrics, read by the textfile collector of the Prometheus node exporter: an absolute path that ends in
        /// `.prom`, such as `/var/lib/prometheus/node-exporter/parallax.prom`. Empty: no file.
        metrics_file: PathBuf = PathBuf::new();
        /// How the layers of images are mounted. `parallax doctor` shows which backends a node supports.
        mounts: Mounts = Mounts::default();
        /// Owners of stores that the kernel may read. Stores of other owners are mounted by FUSE only, as the step's user. A name is
        /// looked up on use, so the account may be created later. On a file server with root_squash, root cannot own a store: name the
        /// account that migrates images.
        trusted_owners: Vec<Owner> = vec![Owner::Name("root".to_owned())];
        /// Path of the mount program, used for mounts by FUSE.
        mount_program: PathBuf = PathBuf::from("/usr/libexec/parallax/parallax-mount-program");
        /// When a layer's SquashFS file is compared with the SHA-256 recorded at its migration. If it differs, the step is
        /// refused. Reading the file counts as part of `step.start_timeout`.
        verify: Verify = Verify::default();
        /// How the kernel reads the files of layers.
        layer_reads: LayerReads = LayerReads::default();
        /// Whether the layers of a job's steps stay mounted until the job ends on the node, so that its next step starts faster. This needs
        /// a process that tells when the job ends: that of the batch script, or Slurm's extern step (`PrologFlags=Contain`).
        keep_for_job: bool = false;
        /// How long unused layers stay mounted after their last step, in seconds (0 to 604800).
        keep_warm: u32 = 0;
        /// Whether the agent writes in-use markers to the store for the images that this node uses, so that `parallax rm` refuses to
        /// remove them. Needs write access for root (not available with root_squash).
        holds: bool = true;
    }
}

section! {
    /// The containers of `run` mode.
    "run" Run {
        /// Paths of the node to mount into every container. A path that does not exist on a node is skipped there.
        mounts: Vec<BindMount> = Vec::new(), example "[\"/scratch\"]";
        /// Whether the user's home directory is mounted into the container.
        mount_home: bool = true;
        /// Whether the directory that a step was started in is mounted into the container.
        mount_workdir: bool = true;
        /// Options that hold for every step with an image unless the user has others, as in srun's `--parallax-…` without that prefix. Paths are
        /// absolute.
        defaults: Vec<String> = Vec::new(), example "[\"readonly\", \"mount=/opt/site:/opt/site:ro\"]";
        /// Options that users may not give, in any way, by their names without `--parallax-`. They are refused when a job is submitted. This
        /// prevents mistakes: nothing in a container goes beyond the user's own rights.
        locked: Vec<String> = Vec::new(), example "[\"writable\"]";
        /// Directories of the site's environment definition files (EDF), searched by name after the user's own (`EDF_PATH`).
        edf_path: Vec<PathBuf> = vec![PathBuf::from("/etc/edf")];
        /// Devices of every container, in addition to those that users ask for with `--parallax-device`: names of the Container Device
        /// Interface (`VENDOR/CLASS=NAME`), and paths with the wildcards of glob(7). A `?` before a device leaves it out on nodes that
        /// do not have it.
        devices: Vec<WantedDevice> = Vec::new(), example "[\"?/dev/cxi*\", \"?nvidia.com/gpu=all\"]";
        /// Directories of CDI specifications: files in JSON or YAML that only root may write. A device of a later directory takes the
        /// place of one with its name in an earlier one.
        cdi_directories: Vec<PathBuf> = CDI_DIRECTORIES.map(PathBuf::from).into();
        /// Directories of OCI hooks (`oci-hooks(5)`): files in JSON that only root may write. The hooks run as the step's user. A file of a
        /// later directory takes the place of one with its name in an earlier one.
        hook_directories: Vec<PathBuf> = Vec::new(),
            example "[\"/usr/share/containers/oci/hooks.d\", \"/etc/containers/oci/hooks.d\"]";
        /// The `/tmp` of the containers.
        tmp: Tmp = Tmp::default();
        /// Path of the Podman program, which pulls images that are in no store.
        podman: PathBuf = PathBuf::from("/usr/bin/podman");
    }
}

impl Agent {
    /// Returns the path of the agent's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.runtime_dir.join("agent.sock")
    }

    /// Returns the path of the metrics file, if one is configured.
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

/// Error of loading the configuration; the message names the file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {cause}; the administrator must install it (an example comes with Parallax)")]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        cause: io::Error,
    },
    /// The file is invalid.
    #[error("{path}{line}: {message}; the administrator must correct it", line = line.map(|n| format!(", line {n}")).unwrap_or_default())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line, from 1, if known.
        line: Option<usize>,
        /// The reason, without a full stop.
        message: String,
    },
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file, the line and the reason.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|cause| ConfigError::Read { path: path.to_owned(), cause })?;
        Self::parse(&text).map_err(|(line, message)| ConfigError::Parse { path: path.to_owned(), line, message })
    }

    /// Parses and checks a text; an error is the line, from 1, if known, and the reason.
    ///
    /// # Errors
    /// Invalid TOML, an unknown key, a wrong type, a value out of range.
    pub fn parse(text: &str) -> Result<Self, (Option<usize>, String)> {
        let config: Self = match toml::from_str(text) {
            Ok(config) => config,
            Err(error) => obsolete::parse(text).ok_or_else(|| {
                let line = error.span().map(|span| 1 + text.bytes().take(span.start).filter(|&b| b == b'\n').count());
                (line, error.message().lines().collect::<Vec<_>>().join(" "))
            })?,
        };
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
                    "invalid \"agent.metrics_file\": \"{}\" is not an absolute path that ends in .prom",
                    path.display()
                ));
            }
        }
        let programs = [&self.agent.mount_program, &self.run.podman];
        let directories = self.run.cdi_directories.iter().chain(&self.run.hook_directories).chain(&self.run.edf_path);
        let absolute = self
            .stores
            .iter()
            .chain(&self.trees.paths)
            .chain([&self.agent.runtime_dir])
            .chain(self.step.scratch().map(|_| &self.step.scratch))
            .chain(programs)
            .chain(directories);
        if let Some(path) = absolute.into_iter().find(|path| !path.is_absolute()) {
            return Err(format!("the path \"{}\" is not absolute", path.display()));
        }
        if self.agent.keep_warm > MAX_KEEP_WARM {
            let seconds = self.agent.keep_warm;
            return Err(format!("invalid \"agent.keep_warm\": {seconds} is not from 0 to {MAX_KEEP_WARM} seconds"));
        }
        self.step.check()?;
        self.lazy.check()?;
        self.mount_program.check()?;
        Ok(())
    }
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
    fn settings_of_backends_are_parsed() {
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
            "stores = [\"/s\"]\n[trees]\npaths = [\"trees\"]",
            "stores = [\"/s\"]\n[step]\nstart_timeout = 0",
            "stores = [\"/s\"]\n[step]\nend_timeout = 99999",
            "stores = [\"/s\"]\n[step]\nscratch = \"scratch\"",
            "stores = [\"/s\"]\n[step]\nscratch_size = \"much\"",
            "stores = [\"/s\"]\n[step]\nscratch_size = \"1g,mode=0\"",
            "stores = [\"/s\"]\n[step]\nscratch_quota = \"much\"",
            "stores = [\"/s\"]\n[step]\nscratch_projects = [1, 4294967295]",
            "stores = [\"/s\"]\n[step]\nscratch_projects = [5, 4]",
            "stores = [\"/s\"]\n[step]\nscratch_projects = [5]",
            "stores = [\"/s\"]\n[agent]\nmetrics_file = \"parallax.prom\"",
            "stores = [\"/s\"]\n[agent]\nmetrics_file = \"/metrics\"",
            "stores = [\"/s\"]\n[run]\npodman = \"podman\"",
            "stores = [\"/s\"]\n[run]\ntmp = \"job\"",
            "stores = [\"/s\"]\n[run]\nmounts = [\"data\"]",
            "stores = [\"/s\"]\n[run]\ndevices = [\"gpu\"]",
            "stores = [\"/s\"]\n[run]\ncdi_directories = [\"cdi\"]",
            "stores = [\"/s\"]\n[run]\nhook_directories = [\"hooks.d\"]",
            "stores = [\"/s\"]\n[agent]\nmounts = \"kernel\"",
            "stores = [\"/s\"]\n[agent]\nverify = true",
            "stores = [\"/s\"]\n[agent]\nkeep_warm = 604801",
            "stores = [\"/s\"]\n[agent]\nkeep_warm = -1",
            "stores = [\"/s\"]\n[agent]\nmount_program = \"parallax-mount-program\"",
            "stores = [\"/s\"]\n[agent]\ntrusted_owners = [-1]",
            "stores = [\"/s\"]\n[step]\non_missing = \"run\"",
            "stores = [\"/s\"]\n[step]\non_unreachable = \"wait:60\"",
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
