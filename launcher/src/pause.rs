//! The pause process of a step in podman mode: a process that keeps the namespaces in which the tasks' Podman works.
//!
//! Rootless Podman starts such a process by itself at its first call, and then asks systemd over the user's bus to move it into a
//! separate scope, outside the job's control group (`MovePauseProcessToScope`, Podman 4.3 to 6). If this fails, Podman prints a
//! warning, as it does if the root directory is not a shared mount. Podman does neither if it finds a pause process (`pause.pid`
//! below `XDG_RUNTIME_DIR`), so the first task starts one in the user namespace that the agent made. This process stays in the
//! job's control group, and saves Podman from making another user namespace.
//!
//! The start takes two steps, because the task must not get an unexpected child: `pause` enters the namespaces, starts `hold` and
//! ends.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::SigSet;
use parallax_protocol::step_file::StepPaths;
use parallax_sys::process::{Process, inherit_standard_streams_only, spawn_server};
use rustix::fs::{FlockOperation, flock};

use crate::podman::enter_namespace;

/// The verbs of the command lines of the two processes.
pub(crate) const VERBS: [&str; 2] = ["pause", "hold"];

/// Ensures that the step has a pause process. The first task that takes the lock starts it.
///
/// # Errors
/// Those of starting the process; the caller can ignore them: Podman then starts a pause process by itself.
pub(crate) fn ensure(directory: &Path) -> io::Result<()> {
    // Root's Podman needs no user namespace, and so no pause process.
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let paths = StepPaths::new(directory);
    let lock = paths.launch_directory().join("pause.lock");
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(lock)?;
    flock(&lock, FlockOperation::LockExclusive)?;
    if is_running(&pid_file(&paths)) {
        return Ok(());
    }
    let [pause, _] = VERBS;
    let status =
        Command::new(std::env::current_exe()?).arg(pause).arg(directory).arg("--").stdin(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("cannot start the pause process: {status}"))) }
}

/// Enters the namespaces and starts the process that keeps them.
///
/// # Errors
/// The namespaces cannot be entered, or the process cannot be started.
pub(crate) fn start(directory: &Path) -> io::Result<()> {
    let paths = StepPaths::new(directory);
    let pid_file = pid_file(&paths);
    let program = std::env::current_exe()?;
    enter_namespace(&paths.user_namespace())?;
    inherit_standard_streams_only()?;
    let [_, hold] = VERBS;
    let mut command = Command::new(program);
    command.arg(hold).arg(directory).arg("--").current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let process = spawn_server(&mut command, &[], None)?;
    let written = write_pid_file(&pid_file, process.id());
    if written.is_err() {
        Process::open(i32::try_from(process.id()).map_err(io::Error::other)?)?.kill()?;
    }
    written
}

/// Keeps the namespaces of this process until it is killed. Signals that are sent to all processes of the step do not end it.
pub(crate) fn hold() -> ! {
    let _ = SigSet::all().thread_block();
    loop {
        std::thread::park();
    }
}

/// The file in which Podman looks for the pause process (`GetRootlessPauseProcessPidPath`).
fn pid_file(paths: &StepPaths) -> PathBuf {
    paths.runtime_directory().join("libpod/tmp/pause.pid")
}

fn is_running(pid_file: &Path) -> bool {
    let pid = fs::read_to_string(pid_file).ok().and_then(|text| text.trim().parse().ok());
    pid.is_some_and(|pid| Process::open(pid).is_ok())
}

/// Writes the file atomically. Podman accepts digits only.
fn write_pid_file(path: &Path, pid: u32) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let new = path.with_extension("new");
    fs::write(&new, pid.to_string())?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_has_digits_only_and_names_a_process_that_runs() {
        let directory = tempfile::tempdir().unwrap();
        let path = pid_file(&StepPaths::new(directory.path()));
        assert!(!is_running(&path));
        write_pid_file(&path, std::process::id()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), std::process::id().to_string());
        assert!(is_running(&path));
    }
}
