//! The mount program: squashfuse and an overlay, in processes of the user. It mounts images whose layers are SquashFS files, and
//! SquashFS files of the user's.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use parallax_protocol::step_file::StepPaths;
use parallax_sys::overlay::Overlay;
use rustix::process::{getgid, getuid};

use crate::capabilities::with_capabilities;
use crate::podman::{JOB_ID, PATH, end_of};

/// Has the mount program mount an overlay over the layers in the current directory. This process must be in the container's user
/// namespace and in a mount namespace that belongs to it.
///
/// # Errors
/// A message for the user, with the end of the program's output.
pub(crate) fn mount(program: &Path, paths: &StepPaths, overlay: &Overlay, place: &Path) -> Result<(), String> {
    let options = overlay.options();
    run(program, paths, &["-o".as_ref(), options.as_ref(), place.as_os_str()])
        .map_err(|why| format!("cannot mount the image: {why}"))
}

/// Has the mount program mount a SquashFS file. Returns the directory in which its contents are, which gets this name; nothing outside this
/// process's mount namespace sees it.
///
/// # Errors
/// A message for the user, with the end of the program's output.
pub(crate) fn mount_file(program: &Path, paths: &StepPaths, file: &Path, name: &str) -> Result<PathBuf, String> {
    let failed = |why: &dyn std::fmt::Display| format!("cannot mount the SquashFS file {}: {why}", file.display());
    // Mounts of several files of one name cover each other; each is attached at its place in the container before the next is made.
    let place = paths.launch_directory().join(name);
    DirBuilder::new().recursive(true).mode(0o700).create(&place).map_err(|error| failed(&error))?;
    run(program, paths, &[OsStr::new("--squashfs"), file.as_os_str(), place.as_os_str()])
        .map_err(|why| failed(&why))?;
    Ok(place)
}

/// Whether the user namespace of this process has an id 0: that of a user without subordinate ids has one id alone.
fn has_root() -> bool {
    // `user_namespaces(7)`: first id inside, first id outside, number of ids.
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.lines().any(|line| line.split_whitespace().next() == Some("0"))
}

fn run(program: &Path, paths: &StepPaths, arguments: &[&OsStr]) -> Result<(), String> {
    let name = program.display();
    let log = paths.launch_directory().join("mount-program.log");
    let output = File::create(&log).map_err(|error| format!("cannot write {}: {error}", log.display()))?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
    // By its environment the agent recognizes a process as the step's.
    command.env_clear().env("PATH", PATH).env("XDG_RUNTIME_DIR", paths.runtime_directory());
    command.envs(std::env::var_os(JOB_ID).map(|job| (JOB_ID, job)));
    if !has_root() {
        // Files of owners without an id could be neither replaced nor changed by anybody.
        command.env("PARALLAX_MP_UID", getuid().to_string()).env("PARALLAX_MP_GID", getgid().to_string());
    }
    with_capabilities(|| command.status())
        .and_then(|status| status)
        .map_err(|error| format!("cannot start {name}: {error}; tell the administrator"))
        .and_then(|status| {
            if status.success() {
                return Ok(());
            }
            Err(format!("{name} failed ({status}){}", end_of(&fs::read(&log).unwrap_or_default())))
        })
}
