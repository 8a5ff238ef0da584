//! The ways into a container: by the process that keeps it, or, for a container that several steps share, by the files that do.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use parallax_protocol::step_file::StepPaths;
use parallax_sys::process::Process;
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces};

/// The capabilities that programs of the container may have, by set-user-id or with file capabilities: Podman's default (CHOWN,
/// DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, SYS_CHROOT, SETFCAP). They hold for the container's
/// own ids and files alone.
pub(crate) const BOUNDS: u64 = 0x8004_05fb;

/// A way into a container.
#[derive(Debug)]
pub(crate) enum Door {
    /// The process that keeps the namespaces.
    Process(Process),
    /// The user namespace and the mount namespace.
    Files(File, File),
}

impl Door {
    /// Opens the files of a container that several steps share.
    ///
    /// # Errors
    /// Those of `open(2)`: the container has ended.
    pub(crate) fn of_files(paths: &StepPaths) -> io::Result<Self> {
        Ok(Self::Files(File::open(paths.container_namespace())?, File::open(paths.mount_namespace())?))
    }

    /// Moves this process into the container.
    ///
    /// # Errors
    /// Those of `setns(2)`.
    pub(crate) fn enter(&self) -> io::Result<()> {
        match self {
            Self::Process(process) => {
                let namespaces = ThreadNameSpaceType::USER | ThreadNameSpaceType::MOUNT;
                Ok(move_into_thread_name_spaces(process.as_fd(), namespaces)?)
            }
            Self::Files(user, mounts) => {
                enter(user, LinkNameSpaceType::User)?;
                enter(mounts, LinkNameSpaceType::Mount)
            }
        }
    }

    /// Moves this process into the container, and in between, in the container's user namespace alone, runs `prepare`.
    ///
    /// # Errors
    /// Those of `setns(2)`.
    pub(crate) fn enter_after<T>(&self, prepare: impl FnOnce() -> T) -> io::Result<T> {
        match self {
            Self::Process(process) => {
                // From inside the user namespace the process's mount namespace is inaccessible (ptrace(2), access mode checking).
                // The process still exists when the first namespace is joined, so the number was its own all the time.
                let mounts = File::open(format!("/proc/{}/ns/mnt", process.pid()))?;
                move_into_thread_name_spaces(process.as_fd(), ThreadNameSpaceType::USER)?;
                let prepared = prepare();
                enter(&mounts, LinkNameSpaceType::Mount)?;
                Ok(prepared)
            }
            Self::Files(user, mounts) => {
                enter(user, LinkNameSpaceType::User)?;
                let prepared = prepare();
                enter(mounts, LinkNameSpaceType::Mount)?;
                Ok(prepared)
            }
        }
    }
}

fn enter(namespace: &File, kind: LinkNameSpaceType) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace.as_fd(), Some(kind))?)
}
