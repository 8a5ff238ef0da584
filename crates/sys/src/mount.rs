//! Mounts as file descriptors (`fsopen(2)`, `open_tree(2)`, `mount_setattr(2)`, `move_mount(2)`; Linux 5.12).
//!
//! A mount is completed while it is detached; attaching it is the last step, so no process ever sees an incomplete mount,
//! and dropping a mount before that step removes it.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr;

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_bind, move_mount, open_tree, unmount,
};

use crate::limits;

/// `MOUNT_ATTR_IDMAP` of `linux/mount.h`.
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// `struct mount_attr` of `linux/mount.h`.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// A detached mount; dropping it unmounts it.
#[derive(Debug)]
pub struct DetachedMount(OwnedFd);

impl DetachedMount {
    /// Mounts a SquashFS on a block device: read-only, no set-user-id programs, no device nodes.
    ///
    /// # Errors
    /// `EINVAL` if the device has no SquashFS that this kernel supports, `ENODEV` if the kernel has no SquashFS, `EPERM`
    /// without `CAP_SYS_ADMIN`.
    pub fn squashfs(device: &str) -> io::Result<Self> {
        Self::image("squashfs", device, &[])
    }

    /// Mounts an EROFS on a block device: read-only, no set-user-id programs, no device nodes.
    ///
    /// # Errors
    /// As [`DetachedMount::squashfs`].
    pub fn erofs(device: &str) -> io::Result<Self> {
        Self::image("erofs", device, &[])
    }

    /// Mounts an EROFS in an open file without a block device (Linux 6.12): read-only, no set-user-id programs, no device nodes. With `direct`
    /// the file is read past the page cache, where the kernel can (6.15).
    ///
    /// # Errors
    /// `ENOTBLK` if the kernel or the file's file system cannot do that, `EINVAL` if the file has no EROFS that this kernel supports, `ENODEV`
    /// if the kernel has no EROFS, `EACCES` if root may not open the file once more, `EPERM` without `CAP_SYS_ADMIN`.
    pub fn erofs_file(file: BorrowedFd<'_>, direct: bool) -> io::Result<Self> {
        let source = format!("/proc/self/fd/{}", file.as_raw_fd());
        let options: &[&str] = if direct { &["directio"] } else { &[] };
        Self::image("erofs", &source, options)
    }

    /// Mounts a read-only file system. Options that the kernel does not know are left out.
    fn image(kind: &str, source: &str, options: &[&str]) -> io::Result<Self> {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_flag(&context, "ro")?;
        fsconfig_set_string(&context, "source", source)?;
        for option in options {
            let _ = fsconfig_set_flag(&context, *option);
        }
        fsconfig_create(&context)?;
        let attributes =
            MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        Ok(Self(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?))
    }

    /// Mounts a read-only file system with these options: no set-user-id programs, no device nodes.
    fn read_only(kind: &str, options: &[(&str, &str)]) -> io::Result<Self> {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_flag(&context, "ro")?;
        for (key, value) in options {
            fsconfig_set_string(&context, *key, *value)?;
        }
        fsconfig_create(&context)?;
        let attributes =
            MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        Ok(Self(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?))
    }

    /// Mounts a FUSE file system whose root is a read-only regular file; what reads from `device` (`/dev/fuse`, open) serves the file.
    ///
    /// # Errors
    /// `ENODEV` if the kernel has no FUSE, `EINVAL` for a device that is in use, `EPERM` without `CAP_SYS_ADMIN`.
    pub fn fuse_file(device: BorrowedFd<'_>) -> io::Result<Self> {
        let options = [
            ("source", "parallax"),
            ("fd", &device.as_raw_fd().to_string()),
            ("rootmode", "100444"),
            ("user_id", "0"),
            ("group_id", "0"),
        ];
        Self::read_only("fuse", &options)
    }

    /// Mounts a metadata image over the directory that has the contents of its files: an overlay without an upper layer, whose files are those
    /// that `trusted.overlay.redirect` names in `data`. Both are attached directories, open.
    ///
    /// # Errors
    /// `EINVAL` where the kernel has no data-only lower layers (before Linux 6.5), or if one of the two is detached, `ELOOP` if `data` lies on
    /// overlays, `ENODEV` if the kernel has no overlays.
    pub fn metadata_overlay(metadata: BorrowedFd<'_>, data: BorrowedFd<'_>) -> io::Result<Self> {
        let place = |directory: BorrowedFd<'_>| format!("/proc/self/fd/{}", directory.as_raw_fd());
        let layers = format!("{}::{}", place(metadata), place(data));
        let options =
            [("source", "parallax"), ("lowerdir", layers.as_str()), ("metacopy", "on"), ("redirect_dir", "follow")];
        Self::read_only("overlay", &options)
    }

    /// Opens the root of the mount, which is a regular file, for reading.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub fn open_root_file(&self) -> io::Result<std::fs::File> {
        std::fs::File::open(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    /// Mounts an empty tmpfs: no set-user-id programs, no device nodes.
    ///
    /// `options` are those of `tmpfs(5)` as pairs, such as `("size", "50%")`.
    ///
    /// # Errors
    /// `EINVAL` for an option or a value that is invalid for tmpfs.
    pub fn tmpfs(options: &[(&str, &str)]) -> io::Result<Self> {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in options {
            fsconfig_set_string(&context, *key, *value)?;
        }
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        Ok(Self(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?))
    }

    /// Makes a second mount of the file system that is attached at `path`.
    ///
    /// # Errors
    /// `ENOENT` if there is no `path`, `EPERM` without `CAP_SYS_ADMIN`.
    pub fn clone_of(path: &Path) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        Ok(Self(open_tree(CWD, path, flags)?))
    }

    /// Makes a second mount of the file system that is attached at `path`, and of every mount below it.
    ///
    /// # Errors
    /// As [`DetachedMount::clone_of`].
    pub fn clone_of_tree(path: &Path) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        Ok(Self(open_tree(CWD, path, flags)?))
    }

    /// Mounts one open file, whatever its path is now: read-only, no set-user-id programs, no device nodes.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` for a file of another mount namespace.
    pub fn of_file(file: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let mount = Self(open_tree(file, "", flags)?);
        let attributes =
            MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        mount.set_attributes(&MountAttr { set: attributes.bits().into(), ..MountAttr::default() })?;
        Ok(mount)
    }

    /// Makes a second mount of an open directory, whatever its path is now: no set-user-id programs, no device nodes, and nothing that is
    /// mounted in the original or here propagates to the other.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` for a directory of another mount namespace.
    pub fn of_directory(directory: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let mount = Self(open_tree(directory, "", flags)?);
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        let propagation = libc::MS_PRIVATE;
        mount.set_attributes(&MountAttr { set: attributes.bits().into(), propagation, ..MountAttr::default() })?;
        Ok(mount)
    }

    /// Maps the files' ids by a user namespace: an id inside that namespace is the id on the file system,
    /// the id outside is the visible one. Supported for SquashFS since Linux 6.2.
    ///
    /// # Errors
    /// `EINVAL` if the file system or the kernel does not support id maps; `EPERM` if the mount already has an id map.
    pub fn map_ids(&self, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
        let attributes = MountAttr {
            set: MOUNT_ATTR_IDMAP,
            user_namespace: u64::try_from(user_namespace.as_raw_fd())
                .map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?,
            ..MountAttr::default()
        };
        self.set_attributes(&attributes)
    }

    /// Makes the mount and every mount below it read-only.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`, `EBUSY` for a mount that is open for writing.
    pub fn make_read_only(&self) -> io::Result<()> {
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into();
        set_attributes(&self.0, &MountAttr { set: attributes, ..MountAttr::default() }, libc::AT_RECURSIVE)
    }

    /// Makes the mount and every mount below it private: mounts that are made or removed in the original do not appear here.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`.
    pub fn make_private(&self) -> io::Result<()> {
        let propagation = libc::MS_PRIVATE;
        set_attributes(&self.0, &MountAttr { propagation, ..MountAttr::default() }, libc::AT_RECURSIVE)
    }

    fn set_attributes(&self, attributes: &MountAttr) -> io::Result<()> {
        set_attributes(&self.0, attributes, 0)
    }

    /// Attaches the mount at an absolute path, all of whose parents belong to root.
    ///
    /// # Errors
    /// As [`DetachedMount::attach`], and `EINVAL` for a path without a last component.
    pub fn attach_at(self, path: &Path) -> io::Result<()> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let parent = open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        self.attach(&parent, name)
    }

    /// Attaches the mount over an open file or directory (`O_PATH`), whatever its path is.
    ///
    /// # Errors
    /// `ENOTDIR` if one of the two is a directory and the other is not.
    pub fn attach_over(self, place: impl AsFd) -> io::Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&self.0, "", place.as_fd(), "", flags).map_err(|error| limits::of_mounts(error.into()))
    }

    /// Attaches the mount over `name`, one component, in an open directory. A symbolic link there is not followed.
    ///
    /// # Errors
    /// `ENOENT` if the directory does not exist, `ENOTDIR` if `name` is not a directory.
    pub fn attach(self, directory: impl AsFd, name: &str) -> io::Result<()> {
        let attached = move_mount(&self.0, "", directory.as_fd(), name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH);
        attached.map_err(|error| limits::of_mounts(error.into()))
    }
}

impl From<OwnedFd> for DetachedMount {
    /// Takes the descriptor of a detached mount.
    fn from(mount: OwnedFd) -> Self {
        Self(mount)
    }
}

impl AsFd for DetachedMount {
    /// The mount's root directory; files can be made through it before it is attached.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Makes the mount that is attached at an open directory (`O_PATH`) read-only, and no mount below it.
///
/// # Errors
/// `EINVAL` if the directory is not the root of a mount, `EPERM` without `CAP_SYS_ADMIN`.
pub fn make_read_only(root: impl AsFd) -> io::Result<()> {
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into();
    set_attributes(root.as_fd(), &MountAttr { set: attributes, ..MountAttr::default() }, 0)
}

/// Makes the mount that is attached at an open directory (`O_PATH`) writable, and no mount below it.
///
/// # Errors
/// As [`make_read_only`]; also `EPERM` if the mount is locked to read-only (`mount_namespaces(7)`).
pub fn make_writable(root: impl AsFd) -> io::Result<()> {
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into();
    set_attributes(root.as_fd(), &MountAttr { clear: attributes, ..MountAttr::default() }, 0)
}

fn set_attributes(mount: impl AsFd, attributes: &MountAttr, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: the path is a C string, the structure has the kernel's layout and its size is given; the call reads
    // both and keeps neither.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            ptr::from_ref(attributes),
            size_of::<MountAttr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Keeps a namespace alive and accessible: mounts its file (`/proc/PID/ns/…`, open) over the file `path`, all of whose parents
/// belong to root.
///
/// # Errors
/// `ENOENT` if there is no file at `path`, `EPERM` without `CAP_SYS_ADMIN`.
pub fn pin_namespace(namespace: impl AsFd, path: &Path) -> io::Result<()> {
    Ok(mount_bind(format!("/proc/self/fd/{}", namespace.as_fd().as_raw_fd()), path)?)
}

/// Detaches the mount at `path` and every mount below it, at once for new look-ups and completely when the last user has ended
/// (`MNT_DETACH`), and removes the mount point. A mount or directory that does not exist is not an error. A symbolic link as the
/// last component is not followed.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`, and those of removing the directory.
pub fn take_down(path: &Path) -> io::Result<()> {
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // INVAL: the directory exists and is not a mount point.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_has_the_kernels_size() {
        // MOUNT_ATTR_SIZE_VER0.
        assert_eq!(size_of::<MountAttr>(), 32);
    }
}
