//! Directories that a site names for the writable layers of steps.
//!
//! Root makes directories of users there, so nobody else may exchange what the path means: neither by a symbolic link nor by write
//! access to a directory of the path, unless the directory is sticky. And the file system must be one that can hold upper layers, and
//! of this machine alone: what has no step is removed.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use crate::found::FileSystem;
use crate::kind::{Can, Place};

/// Permissions that let others change a directory, and the one that keeps them from exchanging what is not theirs.
const OTHERS_MAY_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// The reason why a directory cannot be used. The message names it and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// A part of the path cannot be opened.
    #[error("cannot use {path} for writable layers: {cause}; make the directory, or correct \"step.scratch\"", path = .path.display())]
    Open {
        /// The part of the path.
        path: PathBuf,
        /// The reason.
        cause: io::Error,
    },
    /// A part of the path is a symbolic link.
    #[error("cannot use {path} for writable layers: it is a symbolic link; write the directory's own path in \"step.scratch\"", path = .path.display())]
    Link {
        /// The part of the path.
        path: PathBuf,
    },
    /// Others than root may exchange a part of the path.
    #[error(
        "cannot use {scratch} for writable layers: others than root may change {path}; chown root {path} && chmod go-w {path} (or \
         chmod +t)", scratch = .scratch.display(), path = .path.display()
    )]
    Exchangeable {
        /// The directory of the configuration.
        scratch: PathBuf,
        /// The part of the path.
        path: PathBuf,
    },
    /// The file system cannot hold the upper layers of overlays, or other machines have it, too.
    #[error(
        "cannot use {path} for writable layers: it is on {file_system}, which {reason}; name a directory on a disk of the node in \
         \"step.scratch\" (ext4, XFS, Btrfs)", path = .path.display()
    )]
    FileSystem {
        /// The directory.
        path: PathBuf,
        /// The file system.
        file_system: String,
        /// What is wrong with it, a part of a sentence.
        reason: &'static str,
    },
}

/// A directory that can be used, open by `O_PATH`.
#[derive(Debug)]
pub struct ScratchDirectory {
    /// The directory.
    pub directory: OwnedFd,
    /// Its file system.
    pub file_system: FileSystem,
}

/// Opens a directory for the writable layers of steps.
///
/// # Errors
/// [`ScratchError`] for a directory that cannot be used.
pub fn open(path: &Path) -> Result<ScratchDirectory, ScratchError> {
    let mut last = None;
    let mut parts: Vec<&Path> = path.ancestors().collect();
    parts.reverse();
    for part in parts {
        let directory = open_part(part)?;
        let failed = |error: Errno| ScratchError::Open { path: part.to_owned(), cause: error.into() };
        let found = fstat(&directory).map_err(failed)?;
        if is_exchangeable(found.st_uid, found.st_mode) {
            return Err(ScratchError::Exchangeable { scratch: path.to_owned(), path: part.to_owned() });
        }
        last = Some(directory);
    }
    let open_error = |cause| ScratchError::Open { path: path.to_owned(), cause };
    let directory = last.ok_or_else(|| open_error(io::ErrorKind::InvalidInput.into()))?;
    let file_system = FileSystem::of_file(&directory).map_err(open_error)?;
    match obstacle(&file_system) {
        Some(reason) => {
            Err(ScratchError::FileSystem { path: path.to_owned(), file_system: file_system.to_string(), reason })
        }
        None => Ok(ScratchDirectory { directory, file_system }),
    }
}

fn open_part(path: &Path) -> Result<OwnedFd, ScratchError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(CWD, path, flags, Mode::empty(), resolve).map_err(|error| match error {
        Errno::LOOP => ScratchError::Link { path: path.to_owned() },
        other => ScratchError::Open { path: path.to_owned(), cause: other.into() },
    })
}

fn is_exchangeable(owner: u32, mode: u32) -> bool {
    owner != 0 || (mode & OTHERS_MAY_WRITE != 0 && mode & STICKY == 0)
}

/// What keeps a file system from being used, a part of a sentence.
fn obstacle(file_system: &FileSystem) -> Option<&'static str> {
    let kind = file_system.kind;
    if kind.place == Place::Shared {
        Some("other machines have, too")
    } else if kind.upper_layers == Can::No {
        Some("cannot hold the upper layers of overlays")
    } else if file_system.mount.as_ref().is_some_and(crate::mounts::Mount::is_read_only) {
        Some("is read-only")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind;
    use crate::mounts::Mount;

    #[test]
    fn only_root_may_change_the_path() {
        assert!(!is_exchangeable(0, 0o40755) && !is_exchangeable(0, 0o41777));
        assert!(is_exchangeable(0, 0o40777) && is_exchangeable(0, 0o40775) && is_exchangeable(7, 0o41777));
    }

    #[test]
    fn file_systems_are_judged() {
        let judged = |line: &str| {
            let mount = Mount::parse(line).unwrap();
            obstacle(&FileSystem { kind: Kind::of_type(&mount.file_system), mount: Some(mount) })
        };
        assert_eq!(judged("1 0 0:1 / /s rw - ext4 /dev/vda rw"), None);
        assert_eq!(judged("1 0 0:1 / /s rw - newfs x rw"), None);
        assert_eq!(judged("1 0 0:1 / /s ro - ext4 /dev/vda rw"), Some("is read-only"));
        assert_eq!(judged("1 0 0:1 / /s rw - nfs4 s:/x rw"), Some("other machines have, too"));
        for kind in ["overlay", "fuse.own", "vfat"] {
            let reason = judged(&format!("1 0 0:1 / /s rw - {kind} x rw"));
            assert_eq!(reason, Some("cannot hold the upper layers of overlays"), "{kind}");
        }
    }

    #[test]
    fn paths_that_cannot_be_used_are_named() {
        let missing = open(Path::new("/nonexistent/scratch")).unwrap_err().to_string();
        assert!(missing.contains("/nonexistent") && missing.contains("step.scratch"), "{missing}");
        // A link of every machine.
        let link = open(Path::new("/proc/self/ns")).unwrap_err();
        assert!(matches!(&link, ScratchError::Link { path } if path == Path::new("/proc/self")), "{link}");
    }
}
