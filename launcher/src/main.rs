//! `parallax-launch`: between slurmstepd and the task's own command.
//!
//! - [`args`]: what the plugin says.
//! - [`task`]: one task, from its start to the user's command.
//! - [`container`]: the step's one container: the first task makes it, the others wait for it.
//! - [`podman`]: calls of Podman, bounded in time and in the step's own user namespace.
//! - [`pause`]: the process that keeps Podman's namespaces for tasks in podman mode.
//! - [`pull`]: an image that is in no store.
//! - [`runtime`]: the OCI runtime that Podman uses for it: one that never starts what it created.
//! - [`mounts`]: which paths of the node the container shows (pure).
//! - [`node_program`]: a program that was broadcast to the node.
//! - [`environment`]: the variables of the user's command (pure).
//! - [`join`]: entering the container and becoming the user's command.

use std::process::ExitCode;

mod args;
mod container;
mod environment;
mod join;
mod mounts;
mod node_program;
mod pause;
mod podman;
mod pull;
mod runtime;
mod task;

fn main() -> ExitCode {
    task::run(std::env::args_os().skip(1))
}
