//! What a node can do, as its agent found out by trying.

use serde::{Deserialize, Serialize};

/// What a node can do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Why layers can't be mounted by the kernel; nothing if they can.
    pub native: Option<String>,
    /// Why they can't be mounted by FUSE; nothing if they can.
    pub fuse: Option<String>,
    /// Why not all could be tried, so that something is undecided; nothing if all was.
    #[serde(default)]
    pub undecided: Option<String>,
    /// What was tried, in order.
    pub abilities: Vec<AbilityStatus>,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbilityStatus {
    /// What, such as `id-maps`.
    pub name: String,
    /// Why it failed; nothing if it worked.
    pub failure: Option<String>,
}
