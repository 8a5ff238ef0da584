//! How steps get images: the backend for mounts, verification, and images that no store has.

use serde::{Deserialize, Serialize};

use crate::keys::{Described, Shape, choices};

choices! {
    /// How the layers of images are mounted (`agent.mounts`).
    Mounts default Auto {
        /// By the kernel if the node supports it and the store's owner is trusted, else by FUSE.
        Auto = "auto";
        /// By the kernel only. On a node without support, or if the store's owner is not trusted, the step is refused.
        Native = "native";
        /// By FUSE only, in processes of the step's user.
        Fuse = "fuse";
    }
}

choices! {
    /// When a SquashFS file is compared with the SHA-256 recorded at its migration (`agent.verify`).
    Verify default Off {
        /// Never.
        Off = "off";
        /// At its first mount on the node after the agent's start, and again if the file has changed.
        First = "first";
        /// At every new mount. A step that shares an existing mount makes no new one.
        Always = "always";
    }
}

choices! {
    /// What happens to a step whose image is in no store (`step.on_missing`).
    OnMissing default Error {
        /// The step fails with an error message.
        Error = "error";
        /// Podman pulls the image in the step, on each node separately, into the step's own storage, and the step prints a line on
        /// standard error. Nothing is pulled for a user who may not read one of the stores. The pull counts as part of
        /// `step.start_timeout` and needs space within `step.scratch_size`.
        Pull = "pull";
    }
}

choices! {
    /// What the containers of `run` mode have as `/tmp` (`run.tmp`).
    Tmp default Node {
        /// The node's directory, or that of the job where Slurm gives each job one.
        Node = "node";
        /// An empty directory beside the step's writable layer that ends with the container.
        Step = "step";
    }
}

/// An owner of stores that the kernel may read (`agent.trusted_owners`): a name, or a number.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Owner {
    /// The user's id.
    Id(u32),
    /// The user's name on the node.
    Name(String),
}

impl Described for Owner {
    const SHAPE: Shape = Shape { kind: "user name or id", choices: &[], list: false };
}
