//! `parallax-launch`: between slurmstepd and the task's own command.
//!
//! - [`args`]: what the plugin says.
//! - [`task`]: one task, from its start to the user's command.
//! - [`container`]: the step's one container: the first task makes it, the others wait for it.
//! - [`plan`]: what the container shows (pure), with [`accounts`], the names of users and groups (pure).
//! - [`mpi`]: directories that MPI libraries share with Slurm.
//! - [`build`]: the making of the container, by system calls; [`making`]: from what; [`mount_program`], for layers that the kernel does not mount.
//! - [`show`]: a mount of the plan.
//! - [`devices`]: what devices change in the container; [`bundle`], [`hooks`]: the programs that prepare it; [`capabilities`]: what they may do.
//! - [`of_node`]: what a node adds to a container: its devices and the site's hooks.
//! - [`holder`]: the process that keeps the container.
//! - [`podman`]: calls of Podman, bounded in time and in the step's own user namespace.
//! - [`pause`]: the process that keeps Podman's namespaces for tasks in podman mode.
//! - [`image_store`]: the store in which Podman finds a directory, in podman mode.
//! - [`pull`]: an image that is in no store.
//! - [`digest`]: digests of small documents.
//! - [`tree`]: an image that is a directory of the node.
//! - [`messages`]: messages for the user, each once on a node.
//! - [`mounts`]: paths that belong to the image (pure).
//! - [`node_name`]: the node's name.
//! - [`node_program`]: a program that was broadcast to the node.
//! - [`named`]: what a step may ask of a container that another step made (pure); [`late_mounts`], what it needs there.
//! - [`environment`]: the variables of the user's command (pure).
//! - [`timings`]: the durations of a start, for users who ask for them.
//! - [`pytorch`]: variables by which PyTorch's processes find each other (pure).
//! - [`door`]: the ways into a container.
//! - [`join`]: entering the container and becoming the user's command; [`join_file`], by which `parallax-join` does the same for other tasks.

use std::process::ExitCode;

mod accounts;
mod args;
mod build;
mod bundle;
mod capabilities;
mod container;
mod devices;
mod digest;
mod door;
mod environment;
mod holder;
mod hooks;
mod image_store;
mod join;
mod join_file;
mod late_mounts;
mod making;
mod messages;
mod mount_program;
mod mounts;
mod mpi;
mod named;
mod node_name;
mod node_program;
mod of_node;
mod pause;
mod plan;
mod podman;
mod pull;
mod pytorch;
mod request;
mod show;
mod task;
mod timings;
mod tree;

fn main() -> ExitCode {
    task::run(std::env::args_os().skip(1))
}
