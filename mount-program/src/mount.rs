//! Carries out a plan.
//!
//! All mounts are made in a mount namespace of this program's own, on a tmpfs that nobody else sees: no directory has to be
//! found, made, kept from others or removed. Only the finished overlay is brought out of it. What the
//! namespace holds goes with it, so that a SquashFS ends with the overlay that uses it, and if this program is killed at any
//! point nothing is left.
//!
//! Options name layers by short names in that tmpfs: no path needs escapes, and all fit into the kernel's one page of options.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, mkdir, open, statx};
use rustix::io::Errno;
use rustix::mount::{
    MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_change, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};

use crate::fuse::{self, FuseError, MountOptions, Served, Starting};
use crate::layer::Source;
use crate::plan::OverlayPlan;
use crate::settings::Settings;

/// Where the tmpfs is mounted in the private namespace: a directory that every node has, that nothing there needs, and whose name
/// has no characters that mean something to fuse-overlayfs, which takes the whole paths behind the layers' short names.
const WORKPLACE: &str = "/sys";

const SQUASHFS: MountOptions = MountOptions {
    subtype: "squashfuse_ll",
    flags: &[],
    attributes: MountAttrFlags::MOUNT_ATTR_RDONLY
        .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
        .union(MountAttrFlags::MOUNT_ATTR_NODEV),
};
const OVERLAY: MountOptions = MountOptions {
    subtype: "fuse-overlayfs",
    flags: &["allow_other", "default_permissions"],
    attributes: MountAttrFlags::MOUNT_ATTR_NOATIME,
};

/// Why nothing was mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A SquashFS file can't be served.
    #[error("{} can't be mounted: {source}", path.display())]
    Layer {
        /// The file.
        path: PathBuf,
        /// Why.
        source: FuseError,
    },
    /// A SquashFS was mounted and can't be used.
    #[error("{} was mounted and can't be read ({source}): it is damaged, or the program that serves it has ended", path.display())]
    DeadLayer {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is neither overlay.
    #[error("no overlay can be mounted: not the kernel's ({kernel}), and not fuse-overlayfs ({source})")]
    Overlay {
        /// Why not the kernel's.
        kernel: String,
        /// Why not the other.
        source: FuseError,
    },
    /// A step of the work failed.
    #[error("cannot {what}: {source}")]
    Step {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

trait Step<T> {
    fn step(self, what: &'static str) -> Result<T, MountError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, what: &'static str) -> Result<T, MountError> {
        self.map_err(|error| MountError::Step { what, source: error.into() })
    }
}

/// Mounts the overlay; returns which one, and why that.
pub fn mount_overlay(plan: &OverlayPlan, target: &Path, settings: &Settings) -> Result<String, MountError> {
    let absolute = |path: &Path| std::path::absolute(path).step("find the current directory");
    let outside = Outside::of(target)?;
    let mut layers = Vec::new();
    // All are started before the first is waited for.
    for layer in &plan.layers {
        layers.push(match layer {
            Source::Squashfs(path) => Ground::Starting(path, start_squashfuse(path, settings)?),
            Source::Directory { path, .. } => Ground::Directory(absolute(path)?),
        });
    }
    let mut served = Vec::new();
    for layer in layers {
        served.push(layer.wait()?);
    }
    let upper = match &plan.upper {
        Some(upper) => Some((absolute(&upper.directory)?, absolute(&upper.work)?)),
        None => None,
    };

    enter_private_namespace()?;
    let mut names = Vec::new();
    for (number, layer) in served.into_iter().enumerate() {
        let name = number.to_string();
        layer.place(&name)?;
        names.push(name);
    }
    let mut options = String::new();
    if let Some((directory, work)) = upper {
        let [directory, work] = place_upper(&directory, &work)?;
        options.push_str(&format!(",upperdir={directory},workdir={work}"));
    } else if names.len() == 1 {
        // The kernel takes no overlay of one layer.
        mkdir("e", Mode::from_raw_mode(0o755)).step("make a directory")?;
        names.push("e".to_owned());
    }
    options.insert_str(0, &format!("lowerdir={}", names.join(":")));

    let kernel = match &plan.kernel {
        Ok(others) => kernel_overlay(&options, others, plan.upper.is_none()).map_err(|error| error.to_string()),
        Err(reason) => Err(reason.clone()),
    };
    match kernel {
        Ok(overlay) => {
            outside.attach(overlay)?;
            Ok("the kernel's overlay".to_owned())
        }
        Err(reason) => {
            let overlay = match fuse_overlayfs(&options, &plan.fuse_overlayfs, settings) {
                Ok(overlay) => overlay,
                Err(source) => return Err(MountError::Overlay { kernel: reason, source }),
            };
            leave_nothing_but_layers()?;
            outside.attach(overlay)?;
            Ok(format!("fuse-overlayfs, because {reason}"))
        }
    }
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
        setns(&self.namespace, CloneFlags::CLONE_NEWNS).step("return to Podman's mount namespace")?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(mount.as_fd(), "", &self.target, "", flags).step("attach the overlay at the target directory")
    }
}

/// Where a layer's files come from.
enum Ground<'a> {
    Starting(&'a Path, Starting),
    Served(&'a Path, Served),
    Directory(PathBuf),
}

impl Ground<'_> {
    fn wait(self) -> Result<Self, MountError> {
        match self {
            Self::Starting(path, starting) => match starting.wait() {
                Ok(served) => Ok(Self::Served(path, served)),
                Err(source) => Err(MountError::Layer { path: path.to_owned(), source }),
            },
            other => Ok(other),
        }
    }

    /// Puts the layer at a name in the current directory.
    fn place(self, name: &str) -> Result<(), MountError> {
        match self {
            Self::Directory(path) => bind(&path, name),
            Self::Starting(path, starting) => Self::Starting(path, starting).wait()?.place(name),
            Self::Served(path, served) => {
                mkdir(name, Mode::from_raw_mode(0o700)).step("make a directory")?;
                move_mount(&served, "", CWD, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).step("attach a layer")?;
                // The first request; it fails if the program has ended since.
                statx(CWD, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
                    .map(drop)
                    .map_err(|error| MountError::DeadLayer { path: path.to_owned(), source: error.into() })
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

fn start_squashfuse(path: &Path, settings: &Settings) -> Result<Starting, MountError> {
    let mut arguments = settings.squashfuse_flags.clone();
    arguments.push(path.into());
    fuse::start(&settings.squashfuse, &arguments, SQUASHFS)
        .map_err(|source| MountError::Layer { path: path.to_owned(), source })
}

/// Makes the namespace, and the tmpfs in it the current directory.
fn enter_private_namespace() -> Result<(), MountError> {
    unshare(CloneFlags::CLONE_NEWNS).step("make a mount namespace")?;
    // Mounts made here stay here; what is unmounted outside does not stay mounted here.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .step("make the mount namespace private")?;
    mount("tmpfs", WORKPLACE, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0700")
        .step("mount a tmpfs for the layers")?;
    chdir(WORKPLACE).step("enter the directory of the layers")
}

/// The kernel's overlay, attached nowhere.
fn kernel_overlay(options: &str, others: &[OsString], read_only: bool) -> io::Result<OwnedFd> {
    let mut data = options.as_bytes().to_vec();
    if !owns_the_machine() {
        data.extend_from_slice(b",userxattr");
    }
    for option in others {
        data.push(b',');
        data.extend_from_slice(&option.clone().into_vec());
    }
    let data = CString::new(data)?;
    let flags = if read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    mkdir("m", Mode::from_raw_mode(0o700))?;
    mount("overlay", "m", "overlay", flags, data.as_c_str())?;
    Ok(open_tree(CWD, "m", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?)
}

/// Whether this is the first user namespace, where overlays may use `trusted.` attributes.
fn owns_the_machine() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// The overlay in user space, attached nowhere.
fn fuse_overlayfs(options: &str, others: &[OsString], settings: &Settings) -> Result<Served, FuseError> {
    let mut text = OsString::from(options);
    for option in others {
        text.push(",");
        text.push(option);
    }
    fuse::start(std::slice::from_ref(&settings.fuse_overlayfs), &["-o".into(), text], OVERLAY)?.wait()
}

/// fuse-overlayfs lives in the private namespace and has its layers open. The copies of all other mounts there
/// must not outlive those they were copied from.
fn leave_nothing_but_layers() -> Result<(), MountError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // It reads attributes by way of /proc/self/fd.
    bind(Path::new("/proc"), "proc")?;
    let old_root = open("/", flags, Mode::empty()).step("open the root directory")?;
    match pivot_root(".", ".") {
        Ok(()) => {}
        // The root is the initial ramdisk's, which can't be left. The copies then stay until this overlay ends.
        Err(Errno::INVAL) => return Ok(()),
        Err(error) => return Err(error).step("leave the root directory"),
    }
    fchdir(&old_root).step("enter the old root directory")?;
    unmount(".", UnmountFlags::DETACH).step("empty the private mount namespace")
}
