//! How images come to steps: which way of mounting, what is checked, what stays mounted.

use serde::{Deserialize, Serialize};

use crate::keys::choices;

choices! {
    /// How the layers of images are mounted (`agent.mounts`).
    Mounts default Auto {
        /// By the kernel where the node can do it and the store's owner is trusted, else by FUSE.
        Auto = "auto";
        /// By the kernel only. A node that cannot, and a store whose owner is not trusted, refuse.
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
        /// At its first mount on the node since the agent was started, and again if it was changed since.
        First = "first";
        /// At every new mount. A step that shares a mount that is there makes no new one.
        Always = "always";
    }
}

choices! {
    /// What a step gets whose image is in no store (`step.on_missing`).
    OnMissing default Error {
        /// An error.
        Error = "error";
        /// The image pulled by plain Podman in the step, on each node anew, into the step's own storage; a line on standard
        /// error says so. Nothing is pulled for a user who may not read one of the stores. A pull counts as part of
        /// `step.start_timeout` and needs room in `step.scratch_size`.
        Pull = "pull";
    }
}

/// A user whose stores the kernel may read (`agent.trusted_owners`): a name, or a number.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Owner {
    /// The user's id.
    Id(u32),
    /// The user's name on the node.
    Name(String),
}
