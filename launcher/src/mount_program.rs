//! The mount of an image whose layers are SquashFS files, by the mount program: squashfuse and an overlay, in processes of the user.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use parallax_protocol::step_file::StepPaths;
use parallax_sys::overlay::Overlay;

use crate::capabilities::with_capabilities;
use crate::podman::{JOB_ID, PATH, end_of};

/// Has the mount program mount an overlay over the layers in the current directory. This process must be in the container's user
/// namespace and in a mount namespace that belongs to it.
///
/// # Errors
/// A message for the user, with the end of the program's output.
pub(crate) fn mount(program: &Path, paths: &StepPaths, overlay: &Overlay, place: &Path) -> Result<(), String> {
    let name = program.display();
    let log = paths.launch_directory().join("mount-program.log");
    let output = File::create(&log).map_err(|error| format!("cannot write {}: {error}", log.display()))?;
    let mut command = Command::new(program);
    command.args(["-o", &overlay.options()]).arg(place).stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
    // By its environment the agent recognizes a process as the step's.
    command.env_clear().env("PATH", PATH).env("XDG_RUNTIME_DIR", paths.runtime_directory());
    command.envs(std::env::var_os(JOB_ID).map(|job| (JOB_ID, job)));
    with_capabilities(|| command.status())
        .and_then(|status| status)
        .map_err(|error| format!("cannot start {name}: {error}; tell the administrator"))
        .and_then(|status| {
            if status.success() {
                return Ok(());
            }
            Err(format!(
                "cannot mount the image: {name} failed ({status}){}",
                end_of(&fs::read(&log).unwrap_or_default())
            ))
        })
}
