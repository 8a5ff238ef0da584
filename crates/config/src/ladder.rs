//! How images come to steps: which way of mounting, what is checked, what stays mounted.

use serde::Deserialize;

/// How the layers of images are mounted (`agent.mounts`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mounts {
    /// By the kernel where the node can do it and the store's owner is trusted, else by FUSE.
    #[default]
    Auto,
    /// By the kernel only. A node that can't, and a store whose owner is not trusted, refuse.
    Native,
    /// By FUSE only.
    Fuse,
}

/// When a SquashFS file is compared with the SHA-256 recorded at its migration (`agent.verify`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verify {
    /// Never.
    #[default]
    Off,
    /// At its first mount on the node since the agent was started, and again if it was changed since.
    First,
    /// At every new mount. A step that shares a mount that is there makes no new one.
    Always,
}

/// What a step gets whose image is in no store (`step.on_missing`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnMissing {
    /// An error.
    #[default]
    Error,
    /// The image pulled by plain Podman, into the step's own storage.
    Pull,
}

/// A user whose stores the kernel may read (`agent.trusted_owners`): a name, or a number.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Owner {
    /// The user's id.
    Id(u32),
    /// The user's name on the node.
    Name(String),
}
