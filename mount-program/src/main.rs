//! `parallax-mount-program`: what Podman's `mount_program` names where there is no agent.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    parallax_mount_program::run(&arguments)
}
