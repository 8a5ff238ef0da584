//! The trials, each with the system calls by which a step gets its layers.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{setresgid, setresuid};
use parallax_format::layout;
use parallax_sys::limits::{self, Namespace};
use parallax_sys::loop_device::{LoopDevice, Reads};
use parallax_sys::mount::DetachedMount;
use parallax_sys::user_namespace::{IdRange, UserNamespace};
use rustix::fs::XattrFlags;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};

use crate::erofs_image;
use crate::image::{FILE_CONTENT, FILE_NAME, FILE_OWNER, GZIP, image};

/// The mount point of the trials' tmpfs, in their own mount namespace: a directory every system has and no trial needs.
const PLACE: &str = "/run";
/// The id of the store's layer.
const LAYER: &str = "layer";
/// The link of the store's one layer.
const LINK: &str = "PROBE";

/// The tmpfs in which the trials are made.
pub(crate) struct Place {
    root: PathBuf,
}

/// Directories for a writable overlay.
pub(crate) struct Writable {
    root: PathBuf,
}

/// The ids of the user namespace in which mounts by FUSE are tried.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ids {
    /// Many.
    Many,
    /// The user's own only.
    One,
}

impl Place {
    /// Makes the mount namespace private and mounts the tmpfs, with a plain directory in it that has what the image has, and a
    /// store whose one layer lies in the image.
    pub(crate) fn make() -> io::Result<Self> {
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        mount("tmpfs", PLACE, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755")?;
        let place = Self { root: PLACE.into() };
        fs::create_dir(place.plain_layer())?;
        fs::write(place.plain_layer().join(FILE_NAME), FILE_CONTENT)?;
        let layer = place.root.join(layout::layer_directory(LAYER));
        fs::create_dir_all(layer.join(layout::DIFF))?;
        fs::create_dir(place.root.join(layout::LINKS))?;
        fs::write(layer.join(layout::LINK), LINK)?;
        symlink(layout::link_target(LAYER), place.linked_layer())?;
        fs::write(place.layer_file(), image(GZIP))?;
        Ok(place)
    }

    /// A layer that is a plain directory.
    pub(crate) fn plain_layer(&self) -> PathBuf {
        self.root.join("plain")
    }

    /// The layer of the store as Podman names it.
    fn linked_layer(&self) -> PathBuf {
        self.root.join(layout::link(LINK))
    }

    /// The file of that layer.
    pub(crate) fn layer_file(&self) -> PathBuf {
        self.linked_layer().with_extension(layout::SQUASHFS)
    }

    /// New directories for an overlay, which belong to a user.
    pub(crate) fn writable(&self, name: &str, user: u32) -> io::Result<Writable> {
        let writable = Writable { root: self.root.join(name) };
        for directory in [&writable.root, &writable.upper(), &writable.work(), &writable.merged()] {
            fs::create_dir(directory)?;
            chown(directory, Some(user), Some(user))?;
        }
        Ok(writable)
    }

    /// Writes an image for a compressor; returns its path.
    fn image(&self, compressor: u16) -> io::Result<PathBuf> {
        let path = self.root.join(compressor.to_string()).with_extension(layout::SQUASHFS);
        fs::write(&path, image(compressor))?;
        Ok(path)
    }
}

impl Writable {
    fn upper(&self) -> PathBuf {
        self.root.join("diff")
    }

    fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    fn options(&self) -> String {
        format!("upperdir={},workdir={}", self.upper().display(), self.work().display())
    }

    fn merged(&self) -> PathBuf {
        self.root.join("merged")
    }
}

/// A `/proc` that shows the processes of this PID namespace.
pub(crate) fn fresh_proc() -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount("proc", "/proc", "proc", flags, None)?)
}

/// An attribute by which overlays mark directories.
pub(crate) fn tmpfs_attributes(place: &Place) -> io::Result<()> {
    let file = File::open(place.plain_layer())?;
    Ok(rustix::fs::fsetxattr(&file, c"user.overlay.opaque", b"y", XattrFlags::empty())?)
}

/// Mounts the image by the kernel, and reads it; returns where it is mounted.
pub(crate) fn squashfs(place: &Place) -> Result<PathBuf, String> {
    let directory = place.root.join("layer");
    let mount = kernel_mount(place, GZIP)?;
    fs::create_dir(&directory).map_err(|error| error.to_string())?;
    mount.attach_at(&directory).map_err(|error| format!("cannot attach the mount: {error}"))?;
    read_back(&directory)?;
    Ok(directory)
}

/// Mounts an EROFS image by the kernel, with an id map, and reads it. A loop device is tried, which serves any file system; without one a step
/// may still get its layers.
pub(crate) fn erofs(place: &Place, namespace: &UserNamespace, map: &[IdRange]) -> Result<(), String> {
    let path = place.root.join("image").with_extension(layout::EROFS);
    fs::write(&path, erofs_image::image()).map_err(|error| format!("no image: {error}"))?;
    let file = File::open(path).map_err(|error| format!("no image: {error}"))?;
    let device =
        LoopDevice::attach(file.as_fd(), Reads::Buffered).map_err(|error| format!("no loop device: {error}"))?;
    let mount = DetachedMount::erofs(device.path()).map_err(|error| format!("the kernel refuses it: {error}"))?;
    let directory = place.root.join("erofs");
    fs::create_dir(&directory).map_err(|error| error.to_string())?;
    mount.attach_at(&directory).map_err(|error| format!("cannot attach the mount: {error}"))?;
    read_back(&directory)?;
    id_map_at(&directory, &place.root.join("erofs-mapped"), namespace, map)
}

/// Mounts an image that says it is compressed in a certain way.
pub(crate) fn compressor(place: &Place, compressor: u16) -> Result<(), String> {
    kernel_mount(place, compressor).map(drop)
}

fn kernel_mount(place: &Place, compressor: u16) -> Result<DetachedMount, String> {
    let path = place.image(compressor).map_err(|error| format!("no image: {error}"))?;
    let file = File::open(path).map_err(|error| format!("no image: {error}"))?;
    let device =
        LoopDevice::attach(file.as_fd(), Reads::Buffered).map_err(|error| format!("no loop device: {error}"))?;
    DetachedMount::squashfs(device.path()).map_err(|error| format!("the kernel refuses it: {error}"))
}

fn read_back(directory: &Path) -> Result<(), String> {
    match fs::read(directory.join(FILE_NAME)) {
        Ok(content) if content == FILE_CONTENT => Ok(()),
        Ok(_) => Err("a file in it has wrong contents".to_owned()),
        Err(error) => Err(format!("cannot read a file in it: {error}")),
    }
}

/// Mounts the layer once more with an id map, and looks whether the ids are the right ones; returns where.
pub(crate) fn id_map(
    place: &Place,
    layer: &Path,
    namespace: &UserNamespace,
    map: &[IdRange],
) -> Result<PathBuf, String> {
    let directory = place.root.join("mapped");
    id_map_at(layer, &directory, namespace, map).map(|()| directory)
}

fn id_map_at(layer: &Path, directory: &Path, namespace: &UserNamespace, map: &[IdRange]) -> Result<(), String> {
    let mapped = DetachedMount::clone_of(layer).map_err(|error| format!("no second mount: {error}"))?;
    mapped.map_ids(namespace.as_fd()).map_err(|error| error.to_string())?;
    fs::create_dir(directory).map_err(|error| error.to_string())?;
    mapped.attach_at(directory).map_err(|error| format!("cannot attach the mount: {error}"))?;
    let seen = fs::metadata(directory.join(FILE_NAME)).map_err(|error| error.to_string())?.uid();
    let range = map.iter().find(|range| range.inside <= FILE_OWNER && FILE_OWNER - range.inside < range.count);
    let expected = range.map(|range| range.outside + (FILE_OWNER - range.inside));
    if Some(seen) == expected { Ok(()) } else { Err(format!("a file has the owner {seen}")) }
}

/// Mounts a layer with mapped ids as a metadata image over a directory, and reads a file of it.
pub(crate) fn metadata_image(place: &Place, mapped: &Path) -> Result<(), String> {
    let open = |path: &Path| File::open(path).map_err(|error| error.to_string());
    let (metadata, data, directory) = (open(mapped)?, open(&place.plain_layer())?, place.root.join("tree"));
    let mount = DetachedMount::metadata_overlay(metadata.as_fd(), data.as_fd()).map_err(|error| error.to_string())?;
    fs::create_dir(&directory).map_err(|error| error.to_string())?;
    mount.attach_at(&directory).map_err(|error| format!("cannot attach the mount: {error}"))?;
    read_back(&directory)
}

/// Becomes root of a user namespace, with a mount namespace of its own, as Podman is started for a step.
pub(crate) fn enter(namespace: &UserNamespace) -> io::Result<()> {
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWUSER)?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| limits::of_namespaces(error.into(), &[Namespace::Mount]))?;
    setresgid(0.into(), 0.into(), 0.into())?;
    Ok(setresuid(0.into(), 0.into(), 0.into())?)
}

/// Mounts a writable overlay by the kernel and changes something in it.
pub(crate) fn overlay(writable: &Writable, lower: &Path) -> Result<(), String> {
    let options = format!("lowerdir={},{},userxattr", lower.display(), writable.options());
    let data = std::ffi::CString::new(options).map_err(|error| error.to_string())?;
    let merged = writable.merged();
    mount("overlay", &merged, "overlay", MountFlags::empty(), data.as_c_str()).map_err(|error| error.to_string())?;
    let changed = change(&merged, true);
    unmount(&merged, UnmountFlags::DETACH).map_err(|error| format!("cannot unmount it: {error}"))?;
    changed
}

/// Reads a file of the layer and writes another, and removes the first if it is whose the namespace has an id for.
fn change(merged: &Path, remove: bool) -> Result<(), String> {
    read_back(merged)?;
    let removed = if remove { fs::remove_file(merged.join(FILE_NAME)) } else { Ok(()) };
    let changed = removed.and_then(|()| fs::write(merged.join("new"), ""));
    changed.map_err(|error| format!("cannot change a file in it: {error}"))
}

/// Mounts an overlay over the image by the mount program, with other ids or not, and changes something in it.
pub(crate) fn fuse(
    place: &Place,
    writable: &Writable,
    mount_program: &Path,
    namespace: Ids,
    map_ids: bool,
) -> Result<(), String> {
    let mapping = match namespace {
        _ if !map_ids => "",
        // Podman puts a colon in front.
        Ids::Many => ",uidmapping=:0:1:5:5:0:1,gidmapping=:0:1:5:5:0:1",
        Ids::One => ",uidmapping=:5:0:1,gidmapping=:5:0:1",
    };
    let options = format!("lowerdir={},{}{mapping}", place.linked_layer().display(), writable.options());
    let merged = writable.merged();
    let made = Command::new(mount_program).arg("-o").arg(options).arg(&merged).output();
    let made = made.map_err(|error| format!("{} cannot be started: {error}", mount_program.display()))?;
    if !made.status.success() {
        let said = String::from_utf8_lossy(&made.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
        return Err(if said.is_empty() { made.status.to_string() } else { said });
    }
    let changed = match (namespace, map_ids) {
        // All there is belongs to ids that such a namespace has not.
        (Ids::One, true) => read_back(&merged),
        (Ids::Many, false) => change(&merged, true),
        _ => change(&merged, false),
    };
    unmount(&merged, UnmountFlags::DETACH).map_err(|error| format!("cannot unmount it: {error}"))?;
    changed
}
