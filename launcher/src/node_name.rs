//! The name of this node in sentences.

/// The node's name, as Slurm calls it.
pub(crate) fn node_name() -> String {
    std::env::var("SLURMD_NODENAME")
        .unwrap_or_else(|_| rustix::system::uname().nodename().to_string_lossy().into_owned())
}
