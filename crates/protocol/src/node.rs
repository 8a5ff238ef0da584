//! The abilities of a node, as its agent found by trials.

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

/// The result of one trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbilityStatus {
    /// The ability's name, such as `id-maps`.
    pub name: String,
    /// The reason of the failure; `None` after a success.
    pub failure: Option<String>,
}
