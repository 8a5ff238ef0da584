//! The abilities of a node, as its agent found by trials, and the choices that follow from them.

use serde::{Deserialize, Serialize};

/// The abilities of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The reason why the kernel cannot mount layers; `None` if it can.
    pub native: Option<String>,
    /// The reason why FUSE cannot mount layers; `None` if it can.
    pub fuse: Option<String>,
    /// The reason why the trials were cut short and abilities are undecided; `None` if they were complete.
    #[serde(default)]
    pub undecided: Option<String>,
    /// The trials, in order.
    pub abilities: Vec<AbilityStatus>,
}

/// How the layers of a step's image are provided, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SourceStatus {
    /// What the layers are: `squashfs` files, or a `directory`.
    pub kind: String,
    /// What makes directories of them: `native` (the kernel) or `fuse` (the mount program).
    pub backend: String,
    /// The reason for that backend, a part of a sentence.
    pub reason: String,
}

/// The result of one trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbilityStatus {
    /// The ability's name, such as `id-maps`.
    pub name: String,
    /// The reason of the failure; `None` after a success.
    pub failure: Option<String>,
}
