//! The node agent: mounts, step stores, leases.
//!
//! The path of an image name from a request to the mounted layers, one module each:
//!
//! - [`server`]: accepts connections and answers requests; root only.
//! - [`lease`]: what a step's lease is made of, in order, and its end.
//! - [`holds`]: tells those who remove images what this node holds.
//! - [`helper`]: the process that looks users up and tries what the node can do.
//! - [`identity`]: who the user is, and the id maps of their mounts.
//! - [`owners`]: the owners of stores that the kernel may read.
//! - [`ladder`]: which way the layers come to a step: by the kernel or by FUSE.
//! - [`layers`]: each SquashFS file mounted once on the node.
//! - [`digest`]: whether a layer's file is still the one that was migrated.
//! - [`warm`]: layers that stay mounted for no step.
//! - [`step_store`]: the metadata by which Podman finds the image (pure).
//! - [`scratch`]: the size of a step's tmpfs.
//! - [`step`]: a step's directory with the mounts in it.
//! - [`user_namespaces`]: the user namespaces that steps of a user share.
//! - [`namespace`]: mount namespaces that Slurm gives to jobs.
//! - [`processes`]: the step's processes that Slurm does not know.
//! - [`journal`]: what an agent that is started anew must know.
//! - [`daemon`]: the agent's life: its start, reload and stop, and what systemd is told.
//! - [`restrict`]: the capabilities and system calls that the agent keeps.
//! - [`metrics`] and [`logging`]: what it says of itself.

// An index out of bounds would be a panic of root's.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub mod args;
pub mod daemon;
pub mod digest;
pub mod helper;
pub mod holds;
pub mod identity;
pub mod journal;
pub mod ladder;
pub mod layers;
pub mod lease;
pub mod logging;
pub mod metrics;
pub mod namespace;
pub mod owners;
pub mod processes;
pub mod restrict;
pub mod scratch;
pub mod server;
pub mod step;
pub mod step_store;
pub mod user_namespaces;
pub mod warm;
