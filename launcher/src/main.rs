//! `parallax-launch`: between slurmstepd and the task's own command.
//!
//! - [`args`]: what the plugin says.
//! - [`task`]: one task, from its start to the user's command.
//! - [`container`]: the step's one container: the first task makes it, the others wait for it.
//! - [`podman`]: calls of Podman, bounded in time.
//! - [`mounts`]: which paths of the node the container shows (pure).
//! - [`environment`]: the variables of the user's command (pure).
//! - [`join`]: entering the container and becoming the user's command.

use std::process::ExitCode;

mod args;
mod container;
mod environment;
mod join;
mod mounts;
mod podman;
mod task;

fn main() -> ExitCode {
    task::run(std::env::args_os().skip(1))
}
