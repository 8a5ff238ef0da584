//! The files in a step's directory, and their names.
//!
//! Everything in a step's directory belongs to the step: the agent makes it, the launcher and Podman use it as the step's
//! user, and it goes as a whole.

use std::path::{Path, PathBuf};

use parallax_format::device::WantedDevice;
use parallax_format::podman::IdMapEntry;
use serde::{Deserialize, Serialize};

use crate::accounts::Accounts;

/// The name of the file with [`StepFile`] in it.
const STEP_FILE: &str = "step.json";

/// The paths inside a step's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepPaths {
    directory: PathBuf,
}

impl StepPaths {
    /// The paths inside this directory.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// The directory itself.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// [`StepFile`], as JSON.
    #[must_use]
    pub fn step_file(&self) -> PathBuf {
        self.directory.join(STEP_FILE)
    }

    /// The additional image store.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.directory.join("store")
    }

    /// Podman's `storage.conf`.
    #[must_use]
    pub fn storage_conf(&self) -> PathBuf {
        self.directory.join("storage.conf")
    }

    /// Podman's `containers.conf`, laid over the user's own.
    #[must_use]
    pub fn containers_conf(&self) -> PathBuf {
        self.directory.join("containers.conf")
    }

    /// Podman's graph root: the writable layers. The user's, and a mount of its own where these are on a disk of the node.
    #[must_use]
    pub fn graph_root(&self) -> PathBuf {
        self.directory.join("graph")
    }

    /// The directory in which Podman puts the layers that it is pulling. The user's.
    #[must_use]
    pub fn copies(&self) -> PathBuf {
        self.graph_root().join("copies")
    }

    /// The runtime directory (`XDG_RUNTIME_DIR`) of the step. The user's.
    #[must_use]
    pub fn runtime_directory(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// The user namespace in which Podman runs: the user's id is 0 there, and the subordinate ids follow.
    #[must_use]
    pub fn user_namespace(&self) -> PathBuf {
        self.directory.join("user-namespace")
    }

    /// The user namespace of the step's container: the user's id is itself there, or root's.
    #[must_use]
    pub fn container_namespace(&self) -> PathBuf {
        self.directory.join("container-namespace")
    }

    /// The mount namespace of a container that several steps share.
    #[must_use]
    pub fn mount_namespace(&self) -> PathBuf {
        self.kept().join("mount-namespace")
    }

    /// The directory of [`StepPaths::mount_namespace`]: the kernel binds the file of a mount namespace only in a mount that is private.
    #[must_use]
    pub fn kept(&self) -> PathBuf {
        self.directory.join("kept")
    }

    /// The additional image store of a step in podman mode whose image is a directory. The user's: the launcher writes it.
    #[must_use]
    pub fn store_of_directory(&self) -> PathBuf {
        self.launch_directory().join("store")
    }

    /// The directory that the launchers of the step's tasks share. The user's.
    #[must_use]
    pub fn launch_directory(&self) -> PathBuf {
        self.directory.join("launch")
    }
}

/// The parameters by which a launcher starts the step's container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "settings that do not depend on one another")]
pub struct StepFile {
    /// The image as the user wrote it.
    pub image: String,
    /// The image id, 64 hexadecimal digits; nothing for an image that is in no store, which Podman is to pull.
    pub image_id: Option<String>,
    /// The id that an image which Podman is to pull must have, if it was known when the job was submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulled_id: Option<String>,
    /// A notice for the user before the container is created.
    pub notice: Option<String>,
    /// The user's name.
    pub user: String,
    /// The user's home directory in the node's user database.
    #[serde(default)]
    pub home: Option<PathBuf>,
    /// The names of the user and their groups; empty in podman mode.
    #[serde(default)]
    pub accounts: Accounts,
    /// The image's `Env`, `NAME=VALUE` each.
    pub environment: Vec<String>,
    /// The image's `WorkingDir`, if it has one.
    pub working_directory: Option<PathBuf>,
    /// The image's `Entrypoint`.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// The image's platform, if it is not this node's: `linux/arm64`.
    #[serde(default)]
    pub other_platform: Option<String>,
    /// The image's layers for the container of run mode: paths in the store's directory of layers, the topmost first. Empty for an image
    /// that is to be pulled.
    #[serde(default)]
    pub layers: Vec<String>,
    /// The path of the node that is the image, a directory or a SquashFS file, as the user wrote it. The launcher opens it with the user's rights.
    #[serde(default)]
    pub directory: Option<PathBuf>,
    /// The id maps of Podman's containers in which the user keeps their id, if the image is a path in podman mode.
    #[serde(default)]
    pub keep_id_maps: Option<IdMaps>,
    /// The program that mounts the layers' SquashFS files; `None` if the layers are directories.
    #[serde(default)]
    pub mount_program: Option<PathBuf>,
    /// The program that mounts SquashFS files which the user names.
    #[serde(default)]
    pub squashfs_program: Option<PathBuf>,
    /// Paths of the node to show in the container where they exist.
    pub mounts: Vec<Mount>,
    /// Devices that every container has.
    #[serde(default)]
    pub devices: Vec<WantedDevice>,
    /// Directories of CDI specifications, those of lower priority first.
    #[serde(default)]
    pub cdi_directories: Vec<PathBuf>,
    /// Directories of OCI hooks, those of lower priority first.
    #[serde(default)]
    pub hook_directories: Vec<PathBuf>,
    /// True to show the user's home directory.
    pub mount_home: bool,
    /// True to show the directory the step was started in.
    pub mount_workdir: bool,
    /// True if the user is root in the container.
    #[serde(default)]
    pub as_root: bool,
    /// The name of the container, if other steps of the job share it. It is kept by [`StepPaths::mount_namespace`] and not by a process.
    #[serde(default)]
    pub container: Option<String>,
    /// True if `/tmp` is a directory of the step's own, and not the node's.
    #[serde(default)]
    pub own_tmp: bool,
    /// The Podman to use.
    pub podman: PathBuf,
    /// Timeout for the start of the container in seconds.
    pub start_timeout: u32,
}

/// The id maps of a container, entry by entry as Podman writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    /// The map of user ids.
    pub users: Vec<IdMapEntry>,
    /// The map of group ids.
    pub groups: Vec<IdMapEntry>,
}

/// A path of the node in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The path on the node.
    pub source: PathBuf,
    /// The path in the container.
    pub target: PathBuf,
    /// True for a read-only mount.
    pub read_only: bool,
}
