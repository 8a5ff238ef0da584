//! A program of the user that is on the node and not in the image, put there by `srun --bcast` or sbcast.
//!
//! A broadcast goes to a directory of the node, such as `/tmp`, that the container need not show. The task then mounts the program
//! at the same path in the container, so that the program works as on the node: its name, its neighbours (`$ORIGIN`) and, for a
//! script, its path stay. The libraries of `--send-libs`, if any, are mounted beside it.
//!
//! The task does this as the user, in the namespaces of the step: in a copy of the node's mounts that belongs to the step's user
//! namespace, a mount can be cloned, and the clone is attached in the container.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use parallax_sys::mount::DetachedMount;
use rustix::fs::{FlockOperation, flock};

use crate::mounts;

/// Suffix that Slurm appends to a program's path for the directory of its libraries (`srun --bcast --send-libs`).
const LIBRARIES: &str = "_libs";

/// A file on the node, mounted into the container if its path does not exist there.
#[derive(Debug)]
pub(crate) struct NodeProgram {
    path: PathBuf,
    /// Serializes tasks of one step that mount the same file.
    lock: File,
}

/// A program whose mount was cloned.
#[derive(Debug)]
pub(crate) struct Cloned {
    path: PathBuf,
    lock: File,
    program: DetachedMount,
    libraries: Option<(PathBuf, DetachedMount)>,
}

impl NodeProgram {
    /// Returns a program that is given by an absolute path and belongs to the user on this node; `None` for any other, which is
    /// the image's. `shown` are directories of the node that the container shows in any case.
    pub(crate) fn find(program: &Path, shown: &[&Path], lock: &Path) -> Option<Self> {
        let is_shown = shown.iter().any(|directory| program.starts_with(directory));
        if !program.is_absolute() || is_shown || is_of_image(program) {
            return None;
        }
        let file = fs::metadata(program).ok()?;
        let is_own = file.is_file() && file.uid() == rustix::process::getuid().as_raw();
        let lock = is_own.then(|| OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(lock));
        Some(Self { path: program.to_owned(), lock: lock?.ok()? })
    }

    /// Clones the program's mount. This process must be in the step's user namespace, and leaves the node's mount namespace.
    ///
    /// # Errors
    /// Those of the system calls.
    pub(crate) fn clone_mount(self) -> io::Result<Cloned> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let mut libraries = OsString::from(&self.path);
        libraries.push(LIBRARIES);
        let libraries = PathBuf::from(libraries);
        let libraries = if libraries.is_dir() {
            let mount = DetachedMount::clone_of(&libraries)?;
            Some((libraries, mount))
        } else {
            None
        };
        Ok(Cloned { program: DetachedMount::clone_of(&self.path)?, path: self.path, lock: self.lock, libraries })
    }
}

impl Cloned {
    /// Mounts the program at its path, if nothing exists there. This process must be in the container.
    ///
    /// # Errors
    /// A message for the user.
    pub(crate) fn show(self) -> Result<(), String> {
        let path = self.path.display().to_string();
        self.attach().map_err(|error| format!("cannot mount \"{path}\" of this node into the container: {error}"))
    }

    fn attach(self) -> io::Result<()> {
        flock(&self.lock, FlockOperation::LockExclusive)?;
        if fs::metadata(&self.path).is_err() {
            make_parent(&self.path)?;
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path)?;
            self.program.attach_at(&self.path)?;
        }
        match self.libraries {
            Some((path, mount)) if fs::metadata(&path).is_err() => {
                DirBuilder::new().mode(0o700).create(&path)?;
                mount.attach_at(&path)
            }
            _ => Ok(()),
        }
    }
}

fn make_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| DirBuilder::new().recursive(true).mode(0o755).create(parent))
}

/// Whether a path is in a directory that makes up the image. Temporary files of the node are not.
fn is_of_image(path: &Path) -> bool {
    mounts::hides_image(path) && !path.starts_with("/var/tmp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_the_image_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (own, lock) = (directory.path().join("prog"), directory.path().join("lock"));
        fs::write(&own, "").unwrap();
        let find = |program: &Path, shown: &[&Path]| NodeProgram::find(program, shown, &lock).is_some();
        assert!(find(&own, &[]));
        assert!(!find(&own, &[directory.path()]), "it is shown anyway");
        assert!(!find(Path::new("prog"), &[]), "it is sought in the image's PATH");
        assert!(!find(directory.path(), &[]) && !find(&directory.path().join("missing"), &[]));
        assert!(!find(Path::new("/bin/sh"), &[]), "it is of the image");
        assert!(is_of_image(Path::new("/var/lib/x")) && !is_of_image(Path::new("/var/tmp/x")));
    }
}
