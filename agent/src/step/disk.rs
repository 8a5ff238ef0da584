//! The directories of steps on a disk of the node (`step.scratch`), for writable layers that are not in memory.
//!
//! They lie below a directory of root that nobody else may enter, so a step's user reaches theirs through the step's own directory only,
//! and can neither rename nor exchange it. The name of a directory is the key of its lease. It is root's, and the user's directory is in
//! it: its owner could take the directory out of its project, and so past its limit ([`quota`]). A directory whose key is not in the journal
//! is nobody's: the journal has an entry before the directory is made, and loses it after the directory is gone. After a power cut there is
//! no journal, so the next agent removes them all.

mod quota;
mod removal;

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use parallax_file_system::Can;
use parallax_file_system::scratch::{self, ScratchError};
use parallax_sys::project_quota;
use rustix::fs::{Dir, Mode, OFlags, ResolveFlags, XattrFlags, fsetxattr, fstat, mkdirat, openat2};
use rustix::io::Errno;

pub use self::quota::Quota;

/// The directory of all steps, below the site's.
pub const STEPS: &str = "parallax-steps";
/// The user's directory, in the step's.
const OF_USER: &str = "user";
/// The attribute by which the file system is tried.
const TRIED_ATTRIBUTE: &str = "user.parallax.tried";

/// The reason why a step's directory on the disk cannot be made or found.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The site's directory cannot be used.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    /// The directory of all steps belongs to somebody else.
    #[error("{0} does not belong to root alone; remove it, the agent makes it anew")]
    Foreign(PathBuf),
    /// The file system lacks what the upper layers of overlays need.
    #[error(
        "{0} cannot hold writable layers: its file system has no extended attributes for users; name another directory in \"step.scratch\""
    )]
    NoAttributes(PathBuf),
    /// A system call failed.
    #[error("cannot use {path}: {cause}")]
    System {
        /// The directory.
        path: PathBuf,
        /// The reason.
        cause: io::Error,
    },
}

/// The directory of all steps on the disk.
#[derive(Debug)]
pub struct Disk {
    steps: OwnedFd,
    path: PathBuf,
    quota: Option<Quota>,
}

/// The place of one step's directory on the disk. It may be gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskDirectory {
    /// The site's directory, as it was configured when the step's was made.
    pub scratch: PathBuf,
    /// The name of the step's directory.
    pub name: String,
}

impl Disk {
    /// Opens the directory of all steps below the site's, and makes it if it is missing.
    ///
    /// # Errors
    /// [`DiskError`]
    pub fn open(scratch: &Path) -> Result<Self, DiskError> {
        let site = scratch::open(scratch)?;
        let path = scratch.join(STEPS);
        let failed = |error: Errno| DiskError::System { path: path.clone(), cause: error.into() };
        match mkdirat(&site.directory, STEPS, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(error)),
        }
        let steps = open_directory(&site.directory, OsStr::new(STEPS)).map_err(|error| match error {
            Errno::LOOP | Errno::NOTDIR | Errno::XDEV => DiskError::Foreign(path.clone()),
            other => failed(other),
        })?;
        let found = fstat(&steps).map_err(failed)?;
        if found.st_uid != 0 || found.st_mode & 0o077 != 0 {
            return Err(DiskError::Foreign(path));
        }
        let kind = site.file_system.kind;
        if kind.upper_layers == Can::Depends || kind.user_attributes == Can::Depends {
            match fsetxattr(&steps, TRIED_ATTRIBUTE, b"y", XattrFlags::empty()) {
                Err(Errno::OPNOTSUPP) => return Err(DiskError::NoAttributes(path)),
                tried => tried.map_err(failed)?,
            }
        }
        Ok(Self { steps, path, quota: None })
    }

    /// Limits the directories that are made from now on, if the file system enforces limits.
    #[must_use]
    pub fn limited(self, quota: Option<Quota>) -> Self {
        let quota = quota.filter(|_| self.enforces_limits());
        Self { quota, ..self }
    }

    /// Returns `true` if the file system enforces limits of directories.
    #[must_use]
    pub fn enforces_limits(&self) -> bool {
        project_quota::are_enforced(&self.steps)
    }

    /// Makes the directory of a step with the user's directory in it, and opens the latter. It is still root's.
    ///
    /// # Errors
    /// Those of the system calls; [`Disk::remove`] then removes what is there.
    pub fn create(&self, name: &str) -> io::Result<OwnedFd> {
        mkdirat(&self.steps, name, Mode::from_raw_mode(0o700))?;
        let step = open_directory(&self.steps, OsStr::new(name))?;
        if let Some(quota) = &self.quota {
            quota.apply(&self.steps, &step)?;
        }
        mkdirat(&step, OF_USER, Mode::from_raw_mode(0o700))?;
        Ok(open_directory(&step, OsStr::new(OF_USER))?)
    }

    /// Removes the directory of a step with everything in it. A directory that is gone is not an error.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        removal::remove(&self.steps, OsStr::new(name))
    }

    /// Returns the names of all steps' directories.
    ///
    /// # Errors
    /// Those of reading the directory.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.steps)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                names.push(name.to_str().ok_or(io::ErrorKind::InvalidData)?.to_owned());
            }
        }
        Ok(names)
    }

    /// The path of the directory of all steps.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl DiskDirectory {
    /// Removes the directory with everything in it.
    ///
    /// # Errors
    /// A sentence that names the directory.
    pub fn remove(&self) -> Result<(), String> {
        let failed = |error: &dyn std::fmt::Display| {
            let path = self.scratch.join(STEPS).join(&self.name);
            format!("cannot remove {}: {error}; the agent tries again at its next start", path.display())
        };
        let disk = Disk::open(&self.scratch).map_err(|error| failed(&error))?;
        disk.remove(&self.name).map_err(|error| failed(&error))
    }
}

/// Opens a directory in another one: no link, and no mount point.
fn open_directory(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(parent, name, flags, Mode::empty(), resolve)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_directory_once() {
        let gone = DiskDirectory { scratch: "/nonexistent/scratch".into(), name: "6.2-aa".into() };
        let message = gone.remove().unwrap_err();
        assert!(message.starts_with("cannot remove /nonexistent/scratch/parallax-steps/6.2-aa: "), "{message}");
        assert!(matches!(Disk::open(&gone.scratch), Err(DiskError::Scratch(ScratchError::Open { .. }))));
    }
}
