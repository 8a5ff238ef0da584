//! What a step needs in a container which an earlier step made: directories that Slurm makes for each step, for MPI, and mounts that the
//! user asks for in addition.
//!
//! As with a broadcast program ([`crate::node_program`]), the task clones the mounts in a copy of the node's mounts that belongs to the
//! container's user namespace, and attaches the clones in the container. The directories stay there; the user's mounts are seen by the
//! step's own tasks alone, each of which has a copy of the container's mounts for them.

use std::fmt::Display;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use parallax_request::Mount;
use parallax_sys::mount::{DetachedMount, make_read_only, make_writable};
use parallax_sys::root::Root;
use rustix::fs::{FlockOperation, StatVfsMountFlags, flock, statvfs};

use crate::mounts;
use crate::show::{self, Detached};

/// Mounts to make in the container.
#[derive(Debug)]
pub(crate) struct LateMounts {
    /// Directories to show at their own paths, where the container lacks them.
    paths: Vec<PathBuf>,
    own: Vec<Mount>,
    /// Serializes tasks that mount the same directory.
    lock: File,
}

/// The same, with clones of their mounts.
#[derive(Debug)]
pub(crate) struct LateClones {
    paths: Vec<(PathBuf, DetachedMount)>,
    own: Vec<Detached>,
    lock: File,
}

/// The message about directories of MPI.
fn of_mpi(error: impl Display) -> String {
    format!("cannot show the directories of MPI in the container: {error}; tell the administrator")
}

impl LateMounts {
    /// Returns those of the paths that are directories of this node, and the user's own mounts; `None` if there is nothing.
    ///
    /// # Errors
    /// The lock cannot be opened.
    pub(crate) fn find(paths: Vec<PathBuf>, own: Vec<Mount>, lock: &Path) -> io::Result<Option<Self>> {
        let is_meant = |path: &PathBuf| path.is_absolute() && !mounts::is_of_image(path) && path.is_dir();
        let paths: Vec<PathBuf> = paths.into_iter().filter(is_meant).collect();
        if paths.is_empty() && own.is_empty() {
            return Ok(None);
        }
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(lock)?;
        Ok(Some(Self { paths, own, lock }))
    }

    /// Clones the mounts. This process must be in the container's user namespace, and leaves the node's mount namespace.
    ///
    /// # Errors
    /// A message for the user.
    pub(crate) fn clone_mounts(self) -> Result<LateClones, String> {
        unshare(CloneFlags::CLONE_NEWNS).map_err(of_mpi)?;
        let clone = |path: PathBuf| DetachedMount::clone_of_tree(&path).map(|mount| (path, mount));
        let paths = self.paths.into_iter().map(clone).collect::<io::Result<_>>().map_err(of_mpi)?;
        let is_left_out = |mount: &&Mount| mount.optional && mount.source.path().is_some_and(|path| !path.exists());
        // A container that steps share has no SquashFS files of users (`named::check`).
        let clone = |mount| show::detached(mount, |file| Ok(file.to_owned()));
        let own = self.own.iter().filter(|mount| !is_left_out(mount)).map(clone).collect::<Result<_, String>>()?;
        Ok(LateClones { paths, own, lock: self.lock })
    }
}

impl LateClones {
    /// Mounts the directories at their paths, where nothing exists there, and what is the step's own. This process must be in the container.
    ///
    /// # Errors
    /// A message for the user.
    pub(crate) fn show(self) -> Result<(), String> {
        let Self { mut paths, own, lock } = self;
        let is_read_only = statvfs("/").map_err(of_mpi)?.f_flag.contains(StatVfsMountFlags::RDONLY);
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| format!("cannot lock the container: {error}"))?;
        if !is_read_only {
            show_directories(paths.drain(..)).map_err(of_mpi)?;
        }
        paths.retain(|(path, _)| !path.exists());
        if paths.is_empty() && own.is_empty() {
            return Ok(());
        }
        let failed = |error| format!("cannot mount anything in the container: {error}; tell the administrator");
        unshare(CloneFlags::CLONE_NEWNS).map_err(|error| failed(error.into()))?;
        let root = Root::open(Path::new("/")).map_err(failed)?;
        // The mount points are made in this task's copy: a root directory that is read-only stays so for all others.
        if is_read_only {
            make_writable(&root).map_err(failed)?;
        }
        show_directories(paths.into_iter()).map_err(of_mpi)?;
        own.into_iter().try_for_each(|mount| mount.attach(&root))?;
        if is_read_only { make_read_only(&root).map_err(failed) } else { Ok(()) }
    }
}

/// Mounts directories at their paths, where nothing exists there.
fn show_directories(paths: impl Iterator<Item = (PathBuf, DetachedMount)>) -> io::Result<()> {
    for (path, mount) in paths {
        if fs::metadata(&path).is_err() {
            DirBuilder::new().recursive(true).mode(0o755).create(&path)?;
            mount.attach_at(&path)?;
        }
    }
    Ok(())
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
            LateMounts::find(paths, Vec::new(), &lock).unwrap().map(|late| late.paths)
        };
        assert_eq!(found(&[directory.path(), Path::new("/usr"), Path::new("x")]), Some(vec![directory.path().into()]));
        assert_eq!(found(&[&directory.path().join("missing")]), None);
    }
}
