//! Trash: SquashFS files that were removed while a node may have them mounted.
//!
//! A file system that keeps open files frees them when the last node closes them. NFS does not: the removal of a file by
//! another client takes it from under a running step. So a file is first renamed, which keeps it intact for nodes that have it open,
//! and deleted after the retention time. Indexes of chunks are kept likewise, and keep the chunks that they name.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parallax_format::layout::REMOVED;

use crate::atomic::{entries, move_into_place};
use crate::error::{IoContext as _, StoreError};
use crate::write::store::Store;

impl Store {
    /// Moves a SquashFS file or an index of chunks to the trash. Needs the store's locks.
    pub(crate) fn move_to_trash(&self, file: &Path) -> Result<(), StoreError> {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let directory = self.root().join(REMOVED);
        // An earlier one of the same name may be in use too.
        let free = |path: &PathBuf| path.symlink_metadata().is_err();
        let place = (0_u64..).map(|number| directory.join(format!("{number}.{name}"))).find(free);
        move_into_place(file, &place.unwrap_or_else(|| directory.join(name)))
    }

    /// Returns the files in the trash whose retention time is over, relative to the root.
    pub(crate) fn expired_trash(&self, grace: Duration) -> Result<Vec<String>, StoreError> {
        let mut over = Vec::new();
        for name in entries(&self.root().join(REMOVED))? {
            let path = self.root().join(REMOVED).join(&name);
            let metadata = fs::symlink_metadata(&path).context("read", &path)?;
            // The time of the rename.
            let removed = UNIX_EPOCH + Duration::from_secs(u64::try_from(metadata.ctime()).unwrap_or(0));
            let age = SystemTime::now().duration_since(removed).unwrap_or_default();
            if age >= grace {
                over.push(format!("{REMOVED}/{name}"));
            }
        }
        Ok(over)
    }
}
