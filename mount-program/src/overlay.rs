//! The overlay in user space, as a detached mount. The kernel's is [`parallax_sys::overlay`].

use std::ffi::OsString;
use std::os::fd::OwnedFd;

use rustix::mount::MountAttrFlags;

use crate::fuse::{self, Connected, DIRECTORY, FuseError, MountOptions, Program};
use crate::settings::Settings;
use parallax_sys::overlay::Overlay;

/// Starts fuse-overlayfs, which daemonizes when it serves.
///
/// # Errors
/// The program does not serve.
pub(crate) fn of_fuse(
    overlay: &Overlay,
    others: &[OsString],
    context: Option<String>,
    settings: &Settings,
) -> Result<OwnedFd, FuseError> {
    let mut text = OsString::from(overlay.options());
    for option in others {
        text.push(",");
        text.push(option);
    }
    let options = MountOptions {
        subtype: "fuse-overlayfs",
        root_mode: DIRECTORY,
        flags: &["allow_other", "default_permissions"],
        attributes: MountAttrFlags::MOUNT_ATTR_NOATIME,
        context,
    };
    let connection = fuse::connection()?;
    let mount = fuse::mount(&connection, &options).map_err(FuseError::Mount)?;
    let arguments = ["-o".into(), text];
    let program = Program {
        programs: &settings.fuse_overlayfs,
        arguments: &arguments,
        directory: ".",
        socket: None,
        inherited: &[],
        connected: Connected::Argument,
    };
    let server = fuse::start(program, &connection)?;
    drop(connection);
    server.wait_for_background(settings.timeout)?;
    Ok(mount)
}
