//! Execution of a plan.
//!
//! All mounts are made in a private mount namespace, on a tmpfs that no other process sees: no directory must be
//! found, made, protected or removed. Only the finished overlay leaves the namespace. The mounts in the namespace
//! end with it, so a SquashFS mount ends with the overlays that use it, and if this program is killed at any
//! point nothing is left.
//!
//! Options refer to layers by short names in that tmpfs: no path needs escapes, and no path is too long for the kernel.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{CWD, Mode, OFlags, fstat, mkdir, open};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change, move_mount,
    open_tree, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};

use crate::fuse::FuseError;
use crate::layer::{Sidecar, Source};
use crate::log::Log;
use crate::overlay;
use crate::plan::OverlayPlan;
use crate::settings::Settings;
use crate::squashfs::{self, Count, Layer, LayerMountError};
use parallax_sys::fault;
use parallax_sys::limits::{self, Namespace};
use parallax_sys::overlay::Overlay;

/// Where the tmpfs is mounted in the private namespace: a directory that every node has, that nothing there needs, and whose name
/// has no characters that mean something to fuse-overlayfs, which takes the whole paths behind the layers' short names.
const WORKPLACE: &str = "/sys";

/// Error of mounting.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    /// A SquashFS file cannot be used.
    #[error(transparent)]
    Layer(#[from] LayerMountError),
    /// Neither overlay can be mounted.
    #[error("no overlay can be mounted: not the kernel's ({kernel}), and not fuse-overlayfs ({cause})")]
    Overlay {
        /// The kernel's error.
        kernel: String,
        /// The error of fuse-overlayfs.
        cause: FuseError,
    },
    /// A step of the work failed.
    #[error("cannot {what}: {cause}")]
    Step {
        /// The failed action.
        what: &'static str,
        /// The cause.
        cause: io::Error,
    },
}

trait Step<T> {
    fn step(self, what: &'static str) -> Result<T, MountError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, what: &'static str) -> Result<T, MountError> {
        self.map_err(|error| MountError::Step { what, cause: error.into() })
    }
}

/// The finished mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mounted {
    /// The layers in SquashFS files.
    pub count: Count,
    /// The kind of the overlay, and the reason.
    pub overlay: String,
}

/// Mounts the overlay; `log` gets messages.
pub(crate) fn mount_overlay(
    plan: &OverlayPlan,
    target: &Path,
    settings: &Settings,
    log: &Log,
) -> Result<Mounted, MountError> {
    let absolute = |path: &Path| std::path::absolute(path).step("find the current directory");
    let first_user_namespace = owns_the_machine();
    let outside = Outside::of(target)?;
    let sidecars: Vec<_> = plan.layers.iter().filter_map(Source::sidecar).collect();
    let (served, count) = squashfs::serve(&sidecars, settings, first_user_namespace, log)?;
    let mut served = served.into_iter();
    let mut grounds = Vec::new();
    for layer in &plan.layers {
        match layer {
            Source::Directory { path, .. } => grounds.push(Ground::Directory(absolute(path)?)),
            Source::Parts(paths) => {
                for path in paths {
                    grounds.push(Ground::Directory(absolute(path)?));
                }
            }
            Source::Squashfs(_) => grounds.extend(served.next().map(Ground::Served)),
        }
    }
    let upper = match &plan.upper {
        Some(upper) => Some((absolute(&upper.directory)?, absolute(&upper.work)?)),
        None => None,
    };

    enter_private_namespace()?;
    let mut names = Overlay { user_attributes: !first_user_namespace, ..Overlay::default() };
    for (number, ground) in grounds.into_iter().enumerate() {
        let name = number.to_string();
        ground.place(&name)?;
        names.lower.push(name);
    }
    if let Some((directory, work)) = upper {
        names.upper = Some(place_upper(&directory, &work)?);
    } else if names.lower.len() == 1 {
        // The kernel refuses an overlay with a single layer.
        mkdir("e", Mode::from_raw_mode(0o755)).step("make a directory")?;
        names.lower.push("e".to_owned());
    }

    let kernel = plan.kernel.clone().and_then(|others| names.mount(&others, "m"));
    let overlay = match kernel {
        Ok((overlay, form)) => {
            outside.attach(overlay)?;
            form.to_owned()
        }
        Err(reason) => {
            let overlay = match overlay::of_fuse(&names, &plan.fuse_overlayfs, plan.context.clone(), settings) {
                Ok(overlay) => overlay,
                Err(cause) => return Err(MountError::Overlay { kernel: reason, cause }),
            };
            leave_nothing_but_layers()?;
            outside.attach(overlay)?;
            format!("fuse-overlayfs, because {reason}")
        }
    };
    Ok(Mounted { count, overlay })
}

/// Mounts a SquashFS file alone; `log` gets messages.
pub(crate) fn mount_file(file: &Sidecar, target: &Path, settings: &Settings, log: &Log) -> Result<(), MountError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target = open(target, flags, Mode::empty()).step("open the target directory")?;
    // The process ends with its step, so no other step may share it: the target is on a file system of the step's.
    let device = fstat(&target).step("look at the target directory")?.st_dev;
    let file = &Sidecar { store_device: device, ..file.clone() };
    let (served, _) = squashfs::serve(&[file], settings, owns_the_machine(), log)?;
    served.iter().try_for_each(|layer| attach(layer, &target).step("attach the mount at the target directory"))
}

fn attach(mount: impl AsFd, target: impl AsFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    fault::point();
    move_mount(mount, "", target, "", flags)
}

/// The mount namespace of Podman, and the target in it.
struct Outside {
    namespace: OwnedFd,
    target: OwnedFd,
}

impl Outside {
    fn of(target: &Path) -> Result<Self, MountError> {
        let namespace = open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .step("open the mount namespace")?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let target = open(target, flags, Mode::empty()).step("open the target directory")?;
        Ok(Self { namespace, target })
    }

    /// Goes back and attaches a mount at the target, on top of one that is there: to commit a container that is mounted, Podman has
    /// its layer mounted once more, at the same place, and unmounts that again.
    fn attach(&self, mount: impl AsFd) -> Result<(), MountError> {
        fault::point();
        setns(&self.namespace, CloneFlags::CLONE_NEWNS).step("return to Podman's mount namespace")?;
        attach(mount, &self.target).step("attach the overlay at the target directory")?;
        fault::point();
        Ok(())
    }
}

/// Source of a layer's files.
enum Ground<'a> {
    Served(Layer<'a>),
    Directory(PathBuf),
}

impl Ground<'_> {
    /// Attaches the layer at a name in the current directory.
    fn place(self, name: &str) -> Result<(), MountError> {
        fault::point();
        match self {
            Self::Directory(path) => bind(&path, name),
            Self::Served(layer) => {
                mkdir(name, Mode::from_raw_mode(0o700)).step("make a directory")?;
                move_mount(&layer, "", CWD, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).step("attach a layer")
            }
        }
    }
}

/// Shows a directory at a name in the current directory. A symbolic link would not do: fuse-overlayfs takes the path behind it,
/// and that may have colons.
fn bind(path: &Path, name: &str) -> Result<(), MountError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, path, flags).step("open a directory of the overlay")?;
    mkdir(name, Mode::from_raw_mode(0o700)).step("make a directory")?;
    move_mount(&tree, "", CWD, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).step("attach a directory of the overlay")
}

/// Gives the writable directory and its companion short names. Both must be in one mount, so it is their parent that is shown;
/// Podman's are `<container>/diff` and `<container>/work`.
fn place_upper(directory: &Path, work: &Path) -> Result<[String; 2], MountError> {
    let plain = |path: &Path| {
        let name = path.file_name()?.to_str()?;
        name.bytes().all(|byte| byte.is_ascii_alphanumeric()).then(|| format!("c/{name}"))
    };
    match (directory.parent(), plain(directory), plain(work)) {
        (Some(parent), Some(upper_name), Some(work_name)) if Some(parent) == work.parent() => {
            bind(parent, "c")?;
            Ok([upper_name, work_name])
        }
        _ => {
            symlink(directory, "u").and_then(|()| symlink(work, "w")).step("name the writable directory")?;
            Ok(["u".to_owned(), "w".to_owned()])
        }
    }
}

/// Makes the namespace, and the tmpfs in it the current directory.
fn enter_private_namespace() -> Result<(), MountError> {
    fault::point();
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|error| limits::of_namespaces(error.into(), &[Namespace::Mount]))
        .step("make a mount namespace")?;
    // Mounts made here stay here; what is unmounted outside does not stay mounted here.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .step("make the mount namespace private")?;
    fault::point();
    mount("tmpfs", WORKPLACE, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0700")
        .step("mount a tmpfs for the layers")?;
    chdir(WORKPLACE).step("enter the directory of the layers")
}

/// Whether this is the first user namespace, where overlays may use `trusted.` attributes.
fn owns_the_machine() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// fuse-overlayfs lives in the private namespace and has its layers open. The copies of all other mounts there
/// must not outlive those they were copied from.
fn leave_nothing_but_layers() -> Result<(), MountError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fault::point();
    // It reads attributes by way of /proc/self/fd.
    bind(Path::new("/proc"), "proc")?;
    let old_root = open("/", flags, Mode::empty()).step("open the root directory")?;
    match pivot_root(".", ".") {
        Ok(()) => {}
        // The root is the initial ramdisk's, which cannot be left. The copies then stay until this overlay ends.
        Err(Errno::INVAL) => return Ok(()),
        Err(error) => return Err(error).step("leave the root directory"),
    }
    fchdir(&old_root).step("enter the old root directory")?;
    unmount(".", UnmountFlags::DETACH).step("empty the private mount namespace")
}
