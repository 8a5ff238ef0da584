//! Room for what a container needs in an image whose directories belong to accounts that the container does not have.
//!
//! Nobody can create a file in such a directory, root of the container included: the overlay would have to copy it up with its owner.
//! So the directories that have to hold something are made in the writable layer, before the overlay is mounted, with owners of the
//! container and the permissions of the image.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::Path;

use rustix::fs::Stat;
use rustix::io::Errno;

use crate::root::Root;

/// The id that an owner seems to have who has none in a user namespace (`/proc/sys/kernel/overflowuid`).
const OVERFLOW_ID: u32 = 65_534;

/// Paths in whose directories Podman or its runtime makes something, where an image does not have it.
const MADE_BY_PODMAN: [&str; 12] = [
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/etc/passwd",
    "/etc/mtab",
    "/dev/null",
    "/proc/self",
    "/sys/fs",
    "/run/secrets/secret",
    "/run/.containerenv",
    "/tmp/file",
    "/var/tmp/file",
];

/// Maximum size in bytes of a file of accounts that is copied.
const MAX_ACCOUNTS: u64 = 4 << 20;

/// Makes the directories that hold one of these paths in the writable layer, where they have an owner without an id: nothing
/// could be made in them. Returns `true` if there are any. This process must be in the container's user namespace.
///
/// # Errors
/// Those of the system calls.
pub fn make<'a>(image: &Root, writable: &Path, paths: impl Iterator<Item = &'a Path>) -> io::Result<bool> {
    let mut is_needed = false;
    for path in paths.chain([Path::new("/")]) {
        let above = image.directories(path.parent().unwrap_or(path))?;
        if !above.iter().any(|(_, stat)| is_foreign(stat)) {
            continue;
        }
        is_needed = true;
        for (path, stat) in &above {
            make_like(&writable.join(path.strip_prefix("/").unwrap_or(path)), stat)?;
        }
    }
    Ok(is_needed)
}

/// As [`make()`], for containers of Podman: with the directories in which it or its runtime makes something, and with copies of the files to
/// which it adds the user of a container (`generatePasswdAndGroup`, Podman 4.3 to 5.8).
///
/// # Errors
/// As [`make()`].
pub fn make_for_podman<'a>(image: &Root, writable: &Path, more: impl Iterator<Item = &'a Path>) -> io::Result<bool> {
    let is_needed = make(image, writable, MADE_BY_PODMAN.iter().map(Path::new).chain(more))?;
    for path in ["etc/passwd", "etc/group"].map(Path::new).into_iter().filter(|_| is_needed) {
        let place = writable.join(path);
        let has_room =
            place.parent().is_some_and(|parent| parent.symlink_metadata().is_ok_and(|parent| parent.is_dir()));
        // One that nobody may read stays as it is.
        let text = image.read(&Path::new("/").join(path), MAX_ACCOUNTS).ok().flatten().filter(|_| has_room);
        if let Some(text) = text {
            fs::write(&place, text)?;
            fs::set_permissions(&place, Permissions::from_mode(0o644))?;
        }
    }
    Ok(is_needed)
}

/// Whether a file belongs to somebody without an id in this user namespace.
fn is_foreign(stat: &Stat) -> bool {
    stat.st_uid == OVERFLOW_ID || stat.st_gid == OVERFLOW_ID
}

/// Makes a directory with the owner and the permissions of another; root of the container takes the place of an owner without an id.
fn make_like(path: &Path, stat: &Stat) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let known = |id| if id == OVERFLOW_ID { 0 } else { id };
    match chown(path, Some(known(stat.st_uid)), Some(known(stat.st_gid))) {
        // The container has no root, so the directory stays the user's.
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {}
        result => result?,
    }
    fs::set_permissions(path, Permissions::from_mode(stat.st_mode & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_room_is_made_where_all_owners_are_known() {
        let (image, writable) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(image.path().join("usr/lib")).unwrap();
        let opened = Root::open(image.path()).unwrap();
        assert!(!make(&opened, writable.path(), [Path::new("/usr/lib/x")].into_iter()).unwrap());
        assert_eq!(fs::read_dir(writable.path()).unwrap().count(), 0);
    }
}
