//! Images that are named by the start of their ids.

use parallax_format::IndexPath;
use parallax_format::digest::ImageId;
use rustix::fs::{Dir, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::read::trusted::{OpenError, TrustedStore};

impl TrustedStore {
    /// The ids of the store's images that begin with these digits, those of images without a record included.
    ///
    /// This reads the directory of records and Podman's list, so its time grows with the number of images.
    ///
    /// # Errors
    /// [`OpenError`] if one of them cannot be read.
    pub fn ids_with_prefix(&self, prefix: &str) -> Result<Vec<ImageId>, OpenError> {
        let mut ids = self.record_ids(prefix)?;
        let foreign = self.foreign_images()?.into_iter().filter_map(|entry| ImageId::parse(&entry.id));
        ids.extend(foreign.filter(|id| id.starts_with(prefix)));
        Ok(ids)
    }

    fn record_ids(&self, prefix: &str) -> Result<Vec<ImageId>, OpenError> {
        let path = IndexPath::records_directory();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let failed = |errno: Errno| self.read_failed(path, errno.into());
        let directory = match openat2(&self.root, path, flags, Mode::empty(), resolve) {
            // A store of another tool has none.
            Err(Errno::NOENT) => return Ok(Vec::new()),
            result => result.map_err(failed)?,
        };
        let mut ids = Vec::new();
        for entry in Dir::read_from(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let id = entry.file_name().to_str().ok().and_then(IndexPath::id_from_record);
            ids.extend(id.filter(|id| id.starts_with(prefix)));
        }
        Ok(ids)
    }
}
