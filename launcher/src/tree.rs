//! An image that is a path of the node: a directory with a root file system that somebody has unpacked, such as an image on CVMFS, or a
//! SquashFS file with one, such as those of enroot.
//!
//! The launcher opens it as the user, so nobody runs what they may not read, and root looks nothing up. The directory is used as it
//! is, without an id map: in a mount with other ids a user could read what belongs to root. So files of owners who have no id in the
//! container look like nobody's there, and the directories that have to hold something of the container's are made in its writable
//! layer, with owners of the container.
//!
//! A file is read by a process of the user's, never by the kernel (see [`crate::show`]): its contents are a directory of the container's
//! user namespace, in which all ids are the container's.

mod configuration;

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};

use parallax_protocol::step_file::StepFile;
use parallax_sys::room;
use parallax_sys::root::Root;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::making::{Layers, Making};
use crate::node_name::{is_first_node, node_name};
use crate::show;

pub(crate) use configuration::Settings;

/// The directories of which a root file system has at least one.
const OF_ROOT_FILE_SYSTEMS: [&str; 5] = ["/bin", "/usr", "/etc", "/sbin", "/lib"];
/// The file that marks an OCI layout (OCI image specification 1.1).
const OCI_LAYOUT: &str = "/oci-layout";

/// A directory that is an image, open.
#[derive(Debug)]
pub(crate) struct Tree {
    root: Root,
}

/// What a path that is to be an image turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A directory, with its settings.
    Directory(Box<Settings>),
    /// A file, into which nobody has looked yet.
    File,
}

/// Looks at a path that is to be an image, outside the container's user namespace: there, files look like their owners'.
///
/// # Errors
/// A message for the user: the path cannot be used.
pub(crate) fn look(path: &Path) -> Result<Kind, String> {
    if fs::metadata(path).is_ok_and(|found| found.is_file()) {
        return Ok(Kind::File);
    }
    let tree = Tree::open(path)?;
    Ok(Kind::Directory(Box::new(tree.settings(path)?)))
}

fn unusable(path: &Path, reason: &str) -> String {
    format!("cannot use {} on the node {} as an image: {reason}", path.display(), node_name())
}

impl Tree {
    /// Opens the directory, following symbolic links. Later changes of the path do not matter.
    ///
    /// # Errors
    /// A message for the user.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let directory = open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let root = directory.map_err(|error| {
            unusable(
                path,
                &match error {
                    Errno::NOENT => {
                        "there is no such directory or file; it must be there on every node of the step".to_owned()
                    }
                    Errno::NOTDIR => "it is neither a directory nor a file".to_owned(),
                    Errno::ACCESS => "you may not read it; ask its owner for access".to_owned(),
                    other => other.to_string(),
                },
            )
        })?;
        Ok(Self { root: root.into() })
    }

    /// Mounts the contents of a file. This process must be in the container's user namespace and in a mount namespace that belongs to it.
    ///
    /// # Errors
    /// A message for the user.
    pub(crate) fn of_file(path: &Path, making: &Making<'_>) -> Result<Self, String> {
        let place = show::contents(path, "image", making)?;
        Self::open(&place)
    }

    /// Returns the settings of the image that a user named by `path`.
    ///
    /// # Errors
    /// A message for the user: this is no image, or its settings cannot be used.
    pub(crate) fn settings(&self, path: &Path) -> Result<Settings, String> {
        if OF_ROOT_FILE_SYSTEMS.iter().any(|name| self.root.has(Path::new(name))) {
            return configuration::of_image(path, &self.root).map_err(|reason| unusable(path, &reason));
        }
        let reason = if self.root.has(Path::new(OCI_LAYOUT)) {
            format!("it is an OCI layout; parallax migrate oci:{} puts its images into a store", path.display())
        } else {
            let names: Vec<&str> = OF_ROOT_FILE_SYSTEMS.iter().map(|name| name.trim_start_matches('/')).collect();
            format!("it is not a root file system: it has none of {}", names.join(", "))
        };
        Err(unusable(path, &reason))
    }

    /// Returns the directory as the root of a container.
    ///
    /// # Errors
    /// A message for the user.
    pub(crate) fn root(&self) -> Result<Root, String> {
        let again = self.root.as_fd().try_clone_to_owned();
        again.map(Root::from).map_err(|error| format!("cannot open the image's directory once more: {error}"))
    }

    /// Returns the directory as the only layer of a container.
    pub(crate) fn layers(&self) -> Layers {
        let directory = PathBuf::from(format!("/proc/self/fd/{}", self.root.as_fd().as_raw_fd()));
        Layers { directory, names: vec![".".to_owned()], mount_program: None }
    }

    /// Adds to the error of mounting the directory what the kernel does not say: an overlay shows no file system that is mounted below
    /// its layer, and a user's overlay is refused there.
    pub(crate) fn explain(&self, error: String) -> String {
        let place = fs::read_link(format!("/proc/self/fd/{}", self.root.as_fd().as_raw_fd()));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        match place.ok().and_then(|place| mount_below(&place, &mounts)) {
            Some(mount) => {
                format!("{error}; {} is a file system of its own, which an image cannot have in it", mount.display())
            }
            None => error,
        }
    }

    /// Makes room in the writable layer for what is to be made at these paths ([`room::make`]). Returns `true` if that was needed.
    ///
    /// # Errors
    /// Those of the system calls.
    pub(crate) fn make_room<'a>(&self, writable: &Path, paths: impl Iterator<Item = &'a Path>) -> io::Result<bool> {
        room::make(&self.root, writable, paths)
    }

    /// Makes room for what Podman makes in a container ([`room::make_for_podman`]), and for its working directory.
    ///
    /// # Errors
    /// Those of the system calls.
    pub(crate) fn make_room_for_podman(&self, writable: &Path, working_directory: Option<&Path>) -> io::Result<bool> {
        let inside = working_directory.map(|directory| directory.join("file"));
        room::make_for_podman(&self.root, writable, inside.as_deref().into_iter())
    }
}

/// Tells a user who is root in the container, once for the step, what that is not good for.
pub(crate) fn tell_limits(step: &StepFile) {
    if is_first_node() {
        eprintln!(
            "parallax: files of {} belong to accounts that the container does not have: root of the container can neither change nor \
             remove them, nor read those that only their owner may read; an image of the store has no such limit",
            step.image
        );
    }
}

/// Returns the first mount point below a directory (`proc_pid_mountinfo(5)`).
fn mount_below(place: &Path, mounts: &str) -> Option<PathBuf> {
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.into_iter().find(|point| point != place && point.starts_with(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_root_file_system_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let error = |path: &Path| look(path).unwrap_err();
        assert!(error(path).contains("not a root file system"), "{}", error(path));
        fs::write(path.join("oci-layout"), "").unwrap();
        assert!(error(path).contains("parallax migrate oci:"), "{}", error(path));
        assert_eq!(look(&path.join("oci-layout")), Ok(Kind::File));
        assert!(error(&path.join("oci-layout/none")).contains("neither a directory nor a file"));
        assert!(error(&path.join("none")).contains("no such directory"));
        fs::create_dir(path.join("etc")).unwrap();
        assert_eq!(look(path).unwrap(), Kind::Directory(Box::default()));
    }

    #[test]
    fn a_file_system_below_is_named() {
        let mounts = "21 1 0:19 / / rw - tmpfs t rw\n22 21 0:20 / /srv/tree/proc rw - proc p rw\n23 21 0:21 / /srv/treeless rw - tmpfs t rw\n";
        let below = |path: &str| mount_below(Path::new(path), mounts);
        assert_eq!(below("/srv/tree"), Some(PathBuf::from("/srv/tree/proc")));
        assert_eq!((below("/srv/tree/proc"), below("/srv/tre")), (None, None));
    }
}
