//! The removal of a directory that a user has filled.
//!
//! The user's ids and all subordinate ones may own what is there, with any permissions and at any depth. Root has no right to override
//! permissions here, but may change owners: each directory becomes root's before anything in it is removed. Nothing is looked up by
//! a path of more than one component, and no link is followed. Directories are emptied one after the other, not into the
//! depth: what is in them and not empty moves up. So two descriptors suffice whatever the depth.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Uid, fchmod, fchown, openat2, renameat_with, unlinkat,
};
use rustix::io::Errno;

use super::quota;

/// Removes the directory `name` of `parent` with everything in it. A directory that is gone is not an error.
///
/// # Errors
/// Those of the system calls; what is left can be removed by another attempt.
pub(super) fn remove(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let top = match take_over(parent, name) {
        Err(Errno::NOENT) => return Ok(()),
        top => top?,
    };
    // First, because what has another project could not move to the top otherwise.
    quota::lift(&top)?;
    let mut moved = 0;
    loop {
        each(&top, |child| empty(&top, child, &mut moved))?;
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // What moved up while the directory was read.
            Err(Errno::NOTEMPTY) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Removes an entry of the top directory; moves the directories in it that are not empty to the top.
fn empty(top: &OwnedFd, name: &CStr, moved: &mut u64) -> rustix::io::Result<()> {
    if remove_one(top, name)? {
        return Ok(());
    }
    let directory = take_over(top, name)?;
    loop {
        each(&directory, |child| {
            if remove_one(&directory, child)? {
                return Ok(());
            }
            // A directory is written to when it gets another parent.
            drop(take_over(&directory, child)?);
            move_up(&directory, child, top, moved)
        })?;
        match unlinkat(top, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY) => {}
            result => return result,
        }
    }
}

fn move_up(directory: &OwnedFd, name: &CStr, top: &OwnedFd, moved: &mut u64) -> rustix::io::Result<()> {
    loop {
        *moved += 1;
        match renameat_with(directory, name, top, moved.to_string(), RenameFlags::NOREPLACE) {
            // A name that the user has given.
            Err(Errno::EXIST) => {}
            result => return result,
        }
    }
}

/// Removes a file or an empty directory; returns `false` for a directory that is not empty.
fn remove_one(directory: &OwnedFd, name: &CStr) -> rustix::io::Result<bool> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error),
    }
    match unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens a directory and makes it root's.
fn take_over(parent: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let directory = openat2(parent, name, flags, Mode::empty(), resolve)?;
    fchown(&directory, Some(Uid::ROOT), Some(Gid::ROOT))?;
    fchmod(&directory, Mode::from_raw_mode(0o700))?;
    Ok(directory)
}

/// Calls `body` with the names in a directory while it is read.
fn each(directory: &OwnedFd, mut body: impl FnMut(&CStr) -> rustix::io::Result<()>) -> rustix::io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            body(name)?;
        }
    }
    Ok(())
}
