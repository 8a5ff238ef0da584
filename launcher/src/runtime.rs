//! The OCI runtime that Podman uses for the step's container: the node's own, except that it never starts a created container.
//!
//! A created container has all its namespaces and mounts and waits, in the runtime's own code, for the request to execute
//! its command. The launcher ignores this request. So one call of `podman run --detach` makes a container for the tasks to join,
//! in which no program of the image runs. (`podman create` and `podman init` have the same effect in two calls and 1.5 times the
//! time.)

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::ExitCode;

/// Handles a request to the runtime, by executing `program`.
pub fn run(program: &Path, arguments: &[OsString]) -> ExitCode {
    if is_start(arguments) {
        return ExitCode::SUCCESS;
    }
    let vector = [program.as_os_str()].into_iter().chain(arguments.iter().map(OsString::as_os_str));
    let Ok(vector) = vector.map(|part| CString::new(part.as_bytes())).collect::<Result<Vec<_>, _>>() else {
        return ExitCode::FAILURE;
    };
    let Some(path) = vector.first() else { return ExitCode::FAILURE };
    let Err(error) = nix::unistd::execv(path, &vector);
    eprintln!("cannot execute the OCI runtime {}: {}", program.display(), error.desc());
    ExitCode::FAILURE
}

/// Whether the runtime's command is `start`: `[OPTION…] start CONTAINER`. Podman's containers have hexadecimal names.
fn is_start(arguments: &[OsString]) -> bool {
    matches!(arguments, [.., command, container] if command == "start" && !container.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(arguments: &[&str]) -> bool {
        is_start(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn only_the_start_is_swallowed() {
        assert!(start(&["start", "0af3"]) && start(&["--root", "/run/crun", "start", "0af3"]));
        assert!(!start(&["create", "--bundle", "/b", "0af3"]) && !start(&["--version"]) && !start(&["start"]));
    }
}
