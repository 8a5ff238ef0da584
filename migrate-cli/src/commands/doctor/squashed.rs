//! Stores in which root has no rights of its own: file servers map it to an account without any (`root_squash` of NFS, and
//! the like of Lustre and others).
//!
//! A local file system never denies root access. So a denial shows such a mapping, whatever the file system.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use parallax_config::Agent;
use parallax_format::layout::{IN_USE, JSON, LAYERS, OVERLAY_IMAGES, RECORDS, SQUASH, SQUASHFS};
use rustix::fs::{Access, access};
use rustix::io::Errno;

use super::check::Check;

/// The topic of all checks of stores.
pub(super) const TOPIC: &str = "store";
/// Directories of a store that steps need, and the suffixes of the files in them.
const READ: [(&str, &str); 4] = [(RECORDS, JSON), (LAYERS, SQUASHFS), (OVERLAY_IMAGES, JSON), (SQUASH, SQUASHFS)];

/// Returns root's missing rights in a store; empty if none is missing.
pub(super) fn check(store: &Path, owner: &str, config: &Agent) -> Option<Check> {
    if let Some(path) = unreadable(store) {
        return Some(no_reading(&path, store, owner));
    }
    if !refuses_writing(store) {
        return None;
    }
    let holds = store.join(IN_USE);
    let finding = format!(
        "root has no rights of its own in {} (root_squash): {owner} must run parallax migrate, rm and gc",
        store.display()
    );
    if !config.holds || !refuses_writing(&holds) {
        return Some(Check::ok(TOPIC, finding));
    }
    let finding = format!("{finding}; the agent cannot mark images as in use");
    let remedy = "set agent.holds = false: rm then relies on its grace period alone".to_owned();
    Some(Check::warning(TOPIC, finding, remedy))
}

/// Returns the finding for a `path` that root may not read.
pub(super) fn no_reading(path: &Path, store: &Path, owner: &str) -> Check {
    let finding = format!(
        "root cannot read {}: permission denied; the file server maps root to an account without rights (root_squash), so only \
         users who may read it can check the store",
        path.display()
    );
    let remedy = format!(
        "run parallax doctor as a user of the store; if that is refused, as {owner}: chmod -R a+rX {}",
        store.display()
    );
    Check::warning(TOPIC, finding, remedy)
}

/// Returns the first inaccessible path that steps need. One file of each kind is tried.
fn unreadable(store: &Path) -> Option<PathBuf> {
    let is_refused = |error: &io::Error| error.kind() == ErrorKind::PermissionDenied;
    for (directory, end) in READ {
        let directory = store.join(directory);
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if is_refused(&error) => return Some(directory),
            Err(_) => continue,
        };
        let first = entries.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == end));
        if let Some(file) = first.filter(|file| File::open(file).is_err_and(|error| is_refused(&error))) {
            return Some(file);
        }
    }
    None
}

/// Returns `true` if write permission is denied. Read-only file systems and missing paths do not count.
fn refuses_writing(path: &Path) -> bool {
    access(path, Access::WRITE_OK) == Err(Errno::ACCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_can_be_read_and_written_is_not_spoken_of() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("parallax/images")).unwrap();
        fs::write(directory.path().join("parallax/images/a.json"), "{}").unwrap();
        assert_eq!(check(directory.path(), "u1", &Agent::default()), None);
        assert_eq!(check(Path::new("/nonexistent"), "u1", &Agent::default()), None);
    }

    #[test]
    fn the_remedy_names_owner_and_store() {
        let check = no_reading(Path::new("/s/parallax/images"), Path::new("/s"), "images");
        assert!(check.finding.contains("root_squash") && check.finding.contains("/s/parallax/images"));
        assert!(check.remedy.is_some_and(|remedy| remedy.contains("as images: chmod -R a+rX /s")));
    }
}
