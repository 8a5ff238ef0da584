//! The name of this node in sentences, and its place among those of the step.

/// Slurm's variable for the number of this node among those of the step.
const NODE_ID: &str = "SLURM_NODEID";

/// The node's name, as Slurm calls it.
pub(crate) fn node_name() -> String {
    std::env::var("SLURMD_NODENAME")
        .unwrap_or_else(|_| rustix::system::uname().nodename().to_string_lossy().into_owned())
}

/// Whether this is the first node of the step, which prints what is of little weight and most often the same on all nodes.
pub(crate) fn is_first_node() -> bool {
    std::env::var_os(NODE_ID).is_none_or(|node| node == "0")
}
