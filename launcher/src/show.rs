//! A mount of the plan, or of a later step, made in the container.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parallax_request::{Mount, MountSource};
use parallax_sys::mount::DetachedMount;
use parallax_sys::root::Root;

use crate::making::{Making, OTHER_AGENT};
use crate::mount_program;
use crate::node_name::node_name;

/// A mount that is not in the container yet.
#[derive(Debug)]
pub(crate) struct Detached {
    mount: Mount,
    /// The source, for messages.
    what: String,
    tree: io::Result<DetachedMount>,
    is_directory: bool,
}

/// Makes a mount in the container: a path of the node, with everything that is mounted below it now or later, the
/// contents of a SquashFS file, or an empty directory.
///
/// # Errors
/// A message for the user.
pub(crate) fn show(mount: &Mount, making: &Making<'_>, root: &Root) -> Result<(), String> {
    detached(mount, |file| contents(file, "squashfs", making))?.attach(root)
}

/// Makes a mount that is not in the container yet; `contents` mounts a SquashFS file. This process must be in the container's user
/// namespace and in a mount namespace that belongs to it and has the node's mounts.
///
/// # Errors
/// A message for the user.
pub(crate) fn detached(
    mount: &Mount,
    contents: impl FnOnce(&Path) -> Result<PathBuf, String>,
) -> Result<Detached, String> {
    let (what, tree, is_directory) = match &mount.source {
        MountSource::Path(path) => {
            let found = fs::metadata(path).map_err(|error| missing(path, &error))?;
            (path.display().to_string(), DetachedMount::clone_of_tree(path), found.is_dir())
        }
        MountSource::Squashfs(file) => {
            (file.display().to_string(), DetachedMount::clone_of_tree(&contents(file)?), true)
        }
        MountSource::Tmpfs => ("a tmpfs".to_owned(), DetachedMount::tmpfs(&[("mode", "0755")]), true),
    };
    Ok(Detached { mount: mount.clone(), what, tree, is_directory })
}

impl Detached {
    /// Attaches the mount at its place below the container's root directory.
    ///
    /// # Errors
    /// A message for the user.
    pub(crate) fn attach(self, root: &Root) -> Result<(), String> {
        let Self { mount, what, tree, is_directory } = self;
        let attach = || -> io::Result<()> {
            let tree = tree?;
            if mount.private {
                tree.make_private()?;
            }
            if mount.read_only {
                tree.make_read_only()?;
            }
            tree.attach_over(root.mount_point(&mount.target, is_directory)?)
        };
        attach().map_err(|error| {
            let target = mount.target.display();
            format!("cannot mount {what} of the node {} at {target} in the container: {error}", node_name())
        })
    }
}

/// The message about a source that this node does not have, or does not show to the user.
fn missing(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    format!("cannot mount {path}: {error} on the node {}; \"?{path}\" leaves it out where it is missing", node_name())
}

/// Mounts a SquashFS file of the user's and returns the directory of its contents, which has this name among the step's. The kernel never
/// reads such a file: whoever can write it could attack the kernel with it. The program that reads it is a process of the user.
///
/// # Errors
/// A message for the user.
pub(crate) fn contents(file: &Path, name: &str, making: &Making<'_>) -> Result<PathBuf, String> {
    let found = fs::metadata(file).map_err(|error| missing(file, &error))?;
    if !found.is_file() {
        let file = file.display();
        return Err(format!("cannot mount the SquashFS file {file}: it is no file on the node {}", node_name()));
    }
    if making.step.container.is_some() {
        return Err(format!(
            "cannot mount the SquashFS file {} in a container with a --parallax-name: the program that reads it ends with its step; \
             give the steps that need it no name",
            file.display()
        ));
    }
    let program = making.step.squashfs_program.as_deref();
    let program = program.ok_or_else(|| OTHER_AGENT.to_owned())?;
    mount_program::mount_file(program, making.paths, file, name)
}
