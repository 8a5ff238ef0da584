//! Directories of the node that a step needs in a container which an earlier step made: those that Slurm makes for each step, for MPI.
//!
//! As with a broadcast program ([`crate::node_program`]), the task clones the mounts in a copy of the node's mounts that belongs to the
//! container's user namespace, and attaches the clones in the container.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use parallax_sys::mount::DetachedMount;
use rustix::fs::{FlockOperation, flock};

use crate::mounts;

/// Directories to show where the container lacks them.
#[derive(Debug)]
pub(crate) struct LateMounts {
    paths: Vec<PathBuf>,
    /// Serializes tasks that mount the same directory.
    lock: File,
}

/// The same, with clones of their mounts.
#[derive(Debug)]
pub(crate) struct LateClones {
    mounts: Vec<(PathBuf, DetachedMount)>,
    lock: File,
}

impl LateMounts {
    /// Returns those of the paths that are directories of this node; `None` if there are none.
    ///
    /// # Errors
    /// The lock cannot be opened.
    pub(crate) fn find(paths: Vec<PathBuf>, lock: &Path) -> io::Result<Option<Self>> {
        let is_meant = |path: &PathBuf| path.is_absolute() && !mounts::is_of_image(path) && path.is_dir();
        let paths: Vec<PathBuf> = paths.into_iter().filter(is_meant).collect();
        if paths.is_empty() {
            return Ok(None);
        }
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(lock)?;
        Ok(Some(Self { paths, lock }))
    }

    /// Clones the mounts. This process must be in the container's user namespace, and leaves the node's mount namespace.
    ///
    /// # Errors
    /// Those of the system calls.
    pub(crate) fn clone_mounts(self) -> io::Result<LateClones> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let clone = |path: PathBuf| DetachedMount::clone_of_tree(&path).map(|mount| (path, mount));
        Ok(LateClones { mounts: self.paths.into_iter().map(clone).collect::<io::Result<_>>()?, lock: self.lock })
    }
}

impl LateClones {
    /// Mounts the directories at their paths, where nothing exists there. This process must be in the container.
    ///
    /// # Errors
    /// Those of the system calls.
    pub(crate) fn show(self) -> io::Result<()> {
        flock(&self.lock, FlockOperation::LockExclusive)?;
        for (path, mount) in self.mounts {
            if fs::metadata(&path).is_err() {
                DirBuilder::new().recursive(true).mode(0o755).create(&path)?;
                mount.attach_at(&path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_of_the_node_are_shown() {
        let directory = tempfile::tempdir().unwrap();
        let lock = directory.path().join("lock");
        let found = |paths: &[&Path]| {
            let paths = paths.iter().map(|path| path.to_path_buf()).collect();
            LateMounts::find(paths, &lock).unwrap().map(|late| late.paths)
        };
        assert_eq!(found(&[directory.path(), Path::new("/usr"), Path::new("x")]), Some(vec![directory.path().into()]));
        assert_eq!(found(&[&directory.path().join("missing")]), None);
    }
}
