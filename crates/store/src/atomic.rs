//! Durable, atomic changes to a store's files, readable by everyone whatever the umask.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use parallax_sys::fault;
use tempfile::NamedTempFile;

use crate::error::{IoContext as _, StoreError};

/// Makes a directory, or leaves the one that is there as it is.
pub(crate) fn ensure_directory(path: &Path) -> Result<(), StoreError> {
    fault::point();
    match fs::create_dir(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(0o755)).context("set the mode of", path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error).context("create the directory", path),
    }
}

/// Puts `bytes` at `path` in one step, through a file in `temporary`, on the same file system.
pub(crate) fn replace_file(temporary: &Path, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    replace_file_by(temporary, path, &[bytes])
}

/// The same with bytes that come in pieces.
pub(crate) fn replace_file_by(temporary: &Path, path: &Path, pieces: &[&[u8]]) -> Result<(), StoreError> {
    let write = || -> io::Result<()> {
        fault::point();
        let mut file = NamedTempFile::new_in(temporary)?;
        file.as_file().set_permissions(Permissions::from_mode(0o644))?;
        fault::point();
        pieces.iter().try_for_each(|piece| file.write_all(piece))?;
        fault::point();
        file.as_file().sync_all()?;
        fault::point();
        file.persist(path)?;
        Ok(())
    };
    write().context("write", path)?;
    sync_parent(path)
}

/// Points the symbolic link `path` to `target` in one step. `scratch` is a free path on the same file system.
pub(crate) fn replace_link(scratch: &Path, path: &Path, target: &str) -> Result<(), StoreError> {
    if fs::read_link(path).is_ok_and(|now| now == Path::new(target)) {
        return Ok(());
    }
    // A writer that died may have left one.
    remove_file(scratch)?;
    fault::point();
    std::os::unix::fs::symlink(target, scratch).context("create", scratch)?;
    move_into_place(scratch, path)
}

/// Renames what is durable already, and makes the new name so.
pub(crate) fn move_into_place(from: &Path, path: &Path) -> Result<(), StoreError> {
    fault::point();
    fs::rename(from, path).context("write", path)?;
    sync_parent(path)
}

/// Makes a symbolic link where there is nothing yet.
pub(crate) fn ensure_link(path: &Path, target: &str) -> Result<(), StoreError> {
    fault::point();
    match std::os::unix::fs::symlink(target, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error).context("create", path),
        _ => Ok(()),
    }
}

/// Makes a file readable, or a directory searchable, for everyone. The store's root decides who may enter the store.
pub(crate) fn share(path: &Path) -> Result<(), StoreError> {
    let metadata = fs::symlink_metadata(path).context("read", path)?;
    let missing = if metadata.is_dir() { 0o555 } else { 0o444 };
    let mode = metadata.permissions().mode();
    if metadata.is_symlink() || mode & missing == missing {
        return Ok(());
    }
    fault::point();
    fs::set_permissions(path, Permissions::from_mode(mode & 0o7777 | missing)).context("set the mode of", path)
}

/// Removes a file or link, if it is there.
pub(crate) fn remove_file(path: &Path) -> Result<(), StoreError> {
    fault::point();
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context("remove", path),
        _ => Ok(()),
    }
}

/// Removes whatever is at `path`, if anything is. Not in one step.
pub(crate) fn remove_tree(path: &Path) -> Result<(), StoreError> {
    fault::point();
    let is_directory = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    if !is_directory {
        return remove_file(path);
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context("remove", path),
        _ => Ok(()),
    }
}

/// The names of what is in a directory; none if it is not there.
pub(crate) fn entries(path: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context("read", path)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        // All names of a store are ASCII; others are not ours.
        names.extend(entry.context("read", path)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Makes the entries of the directory that holds `path` durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), StoreError> {
    fault::point();
    let directory = path.parent().unwrap_or(Path::new("/"));
    File::open(directory).and_then(|dir| dir.sync_all()).context("sync", directory)
}

/// The bytes of a file; `None` if the file does not exist.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("read", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_links_are_replaced_in_one_step() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        replace_file(dir.path(), &path, b"one").unwrap();
        replace_file(dir.path(), &path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        let link = dir.path().join("l");
        for target in ["x", "y", "y"] {
            replace_link(&dir.path().join("scratch"), &link, target).unwrap();
            assert_eq!(fs::read_link(&link).unwrap(), Path::new(target));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
