//! The node agent: mounts, step stores, leases.
//!
//! The path of an image name from a request to the mounted layers, one module each:
//!
//! - [`server`]: accepts connections and answers requests; root only.
//! - [`lease`]: grants, finds, adopts and releases the leases of steps.
//! - [`in_use`]: marks images as in use, for those who remove images.
//! - [`helper`]: the process that looks users up and tries what the node can do.
//! - [`identity`]: the user of a step, and the id maps of their mounts.
//! - [`backend`]: chooses the kernel or FUSE for the layers of a step.
//! - [`layers`]: mounts each SquashFS file once on the node.
//! - [`step`]: a step's directory: the step store, the tmpfs, the mounts, the namespaces.
//! - [`processes`]: the step's processes that Slurm does not know.
//! - [`journal`]: the records that a restarted agent reads.
//! - [`daemon`]: starts, reloads and stops the agent; notifies systemd.
//! - [`restrict`]: the capabilities and system calls that the agent keeps.
//! - [`metrics`] and [`logging`]: counters and log messages.

// An index out of bounds would be a panic of root's.

pub mod args;
pub mod backend;
pub mod daemon;
pub mod helper;
pub mod identity;
pub mod in_use;
pub mod journal;
pub mod layers;
pub mod lease;
pub mod logging;
pub mod metrics;
pub mod processes;
pub mod restrict;
pub mod server;
pub mod step;
