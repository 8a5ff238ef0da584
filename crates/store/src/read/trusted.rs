//! Reading a store as root: only what nobody but its owner can write is trusted.
//!
//! Every file is opened beneath the store's root (`openat2(2)`, `RESOLVE_BENEATH`), checked through its descriptor, and used
//! through that same descriptor, so nothing can be exchanged between the check and the use. A file is trusted if it is a
//! regular file of the store's owner, on the store's file system, that nobody else may write. Who may write the store can
//! make the kernel read what they like: that is the owner, and the configuration names the store.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use parallax_format::record::{ImageRecord, LayerRecord, MAX_BYTES, RecordError};
use parallax_format::{ImageName, ImageRef, IndexPath, name_from_index_entry};
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, RawMode, ResolveFlags, Stat, fstat, openat, openat2, readlinkat};
use rustix::io::Errno;

/// Write permission for the group or for others.
const OTHERS_MAY_WRITE: RawMode = 0o022;
/// Maximum number of names that are searched for the nearest ones to a misspelt name.
const MAX_NAMES: usize = 20_000;

/// An error of reading a store or a file of it. Each message names the path.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store cannot be opened.
    #[error("the store {path} cannot be read: {cause}")]
    Store {
        /// The store's root.
        path: PathBuf,
        /// The cause.
        cause: io::Error,
    },
    /// A file of it cannot be read.
    #[error("{path} in the store {store} cannot be read: {cause}")]
    Read {
        /// The store's root.
        store: PathBuf,
        /// The file, relative to it.
        path: String,
        /// The cause.
        cause: io::Error,
    },
    /// A file exists but is not trusted.
    #[error("{path} in the store {store} is not trusted: {reason}")]
    NotTrusted {
        /// The store's root.
        store: PathBuf,
        /// The file, relative to it; `.` for the root.
        path: String,
        /// The problem.
        reason: &'static str,
    },
    /// A record is invalid.
    #[error("the record {path} in the store {store} is corrupt: {cause}")]
    Record {
        /// The store's root.
        store: PathBuf,
        /// The record, relative to it.
        path: String,
        /// The problem.
        cause: RecordError,
    },
    /// An image of another tool is incomplete or invalid.
    #[error("the image {image} in the store {store}, which another tool brought, cannot be used: {reason}")]
    Foreign {
        /// The store's root.
        store: PathBuf,
        /// The image's name or id.
        image: String,
        /// What is wrong.
        reason: String,
    },
}

/// Identity of a mounted store: its directory, and the owner who is trusted. A path would not
/// do: something else can be mounted on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreKey {
    device: u64,
    inode: u64,
    owner: u32,
}

/// A store whose root is held open.
#[derive(Debug)]
pub struct TrustedStore {
    path: PathBuf,
    pub(crate) root: OwnedFd,
    owner: u32,
    device: u64,
    inode: u64,
    /// Whether files that others may write are refused.
    strict: bool,
}

impl TrustedStore {
    /// Opens the store at `path`, following symbolic links there: the path comes from the configuration.
    ///
    /// # Errors
    /// [`OpenError::Store`], or [`OpenError::NotTrusted`] if others than the owner may write in the root.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let store = Self::open_lenient(path)?;
        if store.others_may_write()? {
            return Err(store.not_trusted(".", "others than its owner may write in it"));
        }
        Ok(Self { strict: true, ..store })
    }

    /// Opens a store to show what is in it, whoever may write there. Files are still opened beneath its root only.
    ///
    /// # Errors
    /// [`OpenError::Store`].
    pub fn open_lenient(path: &Path) -> Result<Self, OpenError> {
        let failed = |errno: Errno| OpenError::Store { path: path.to_owned(), cause: errno.into() };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
        let stat = fstat(&root).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            root,
            owner: stat.st_uid,
            device: stat.st_dev,
            inode: stat.st_ino,
            strict: false,
        })
    }

    fn others_may_write(&self) -> Result<bool, OpenError> {
        let stat =
            fstat(&self.root).map_err(|errno| OpenError::Store { path: self.path.clone(), cause: errno.into() })?;
        Ok(stat.st_mode & OTHERS_MAY_WRITE != 0)
    }

    pub(crate) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// The path the store was opened at.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which store it is.
    #[must_use]
    pub fn key(&self) -> StoreKey {
        StoreKey { device: self.device, inode: self.inode, owner: self.owner }
    }

    /// The id of the user the store belongs to.
    #[must_use]
    pub fn owner(&self) -> u32 {
        self.owner
    }

    /// The image a reference means here: one open and one read. `None` if the store has none.
    ///
    /// # Errors
    /// [`OpenError`], for a record that is there and can't be used.
    pub fn resolve(&self, reference: &ImageRef) -> Result<Option<ImageRecord>, OpenError> {
        for path in IndexPath::candidates(reference) {
            if let Some(file) = self.open_file(&path, ResolveFlags::empty())? {
                return self.read_record(&path, file).map(Some);
            }
        }
        Ok(None)
    }

    /// The SquashFS file of a layer, open for reading.
    ///
    /// # Errors
    /// [`OpenError`]; a missing file is one.
    pub fn open_layer(&self, layer: &LayerRecord) -> Result<File, OpenError> {
        let path = layer.file_path();
        // Another tool's may be a symbolic link, which must not lead out of the store.
        let links = if layer.sidecar { ResolveFlags::empty() } else { ResolveFlags::NO_SYMLINKS };
        let file = self.open_file(&path, links)?.ok_or_else(|| self.read_failed(&path, Errno::NOENT.into()))?;
        let size = file.metadata().map_err(|error| self.read_failed(&path, error))?.len();
        // What another tool wrote may have no size in its record.
        if layer.squashfs_size != 0 && size != layer.squashfs_size {
            return Err(self.not_trusted(&path, "its size differs from the recorded one, so it is corrupt"));
        }
        Ok(file)
    }

    /// Returns the index of a layer's chunks, and their trace, open for reading. A trace that cannot be read counts as none.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_chunks(&self, layer: &LayerRecord) -> Result<Option<(File, Option<File>)>, OpenError> {
        let open = |path: &str| self.open_file(path, ResolveFlags::NO_SYMLINKS);
        Ok(open(&layer.chunk_index_path())?.map(|index| (index, open(&layer.chunk_trace_path()).ok().flatten())))
    }

    /// The names of the store's images, for telling a user which ones are near; at most 20,000, and none on any error.
    #[must_use]
    pub fn names(&self) -> Vec<ImageName> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let Ok(directory) = openat2(&self.root, IndexPath::names_directory(), flags, Mode::empty(), resolve) else {
            return Vec::new();
        };
        let Ok(entries) = Dir::read_from(&directory) else { return Vec::new() };
        entries
            .take(MAX_NAMES)
            .filter_map(|entry| name_from_index_entry(entry.ok()?.file_name().to_str().ok()?))
            .collect()
    }

    fn read_record(&self, path: &str, file: File) -> Result<ImageRecord, OpenError> {
        let bytes = self.read_all(path, file, MAX_BYTES)?;
        ImageRecord::parse(&bytes).map_err(|cause| OpenError::Record {
            store: self.path.clone(),
            path: path.to_owned(),
            cause,
        })
    }

    /// Returns the bytes of a file, at most `max`; `None` if it does not exist.
    pub(crate) fn read(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>, OpenError> {
        let file = self.open_file(path, ResolveFlags::NO_SYMLINKS)?;
        file.map(|file| self.read_all(path, file, max)).transpose()
    }

    fn read_all(&self, path: &str, file: File, max: u64) -> Result<Vec<u8>, OpenError> {
        let mut bytes = Vec::new();
        let read = file.take(max + 1).read_to_end(&mut bytes).map_err(|error| self.read_failed(path, error))?;
        if read as u64 > max { Err(self.not_trusted(path, "it is too large for what it is")) } else { Ok(bytes) }
    }

    /// Returns the target of a symbolic link, if it exists. The directories of its path are no links.
    pub(crate) fn link_target(&self, path: &str) -> Result<Option<String>, OpenError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let link = match openat2(&self.root, path, flags, Mode::empty(), resolve) {
            Err(Errno::NOENT) => return Ok(None),
            link => link.map_err(|error| self.read_failed(path, error.into()))?,
        };
        match readlinkat(&link, "", Vec::new()) {
            Ok(target) => Ok(target.into_string().ok()),
            // It is something else.
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(error) => Err(self.read_failed(path, error.into())),
        }
    }

    /// Whether a path exists, as any kind of file.
    pub(crate) fn has(&self, path: &str) -> bool {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.root, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve).is_ok()
    }

    /// Opens a file beneath the root and checks it; `None` if it does not exist.
    fn open_file(&self, path: &str, resolve: ResolveFlags) -> Result<Option<File>, OpenError> {
        // Without NONBLOCK the open itself would wait on a FIFO somebody put there.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let resolve = resolve | ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = loop {
            match openat2(&self.root, path, flags, Mode::empty(), resolve) {
                Ok(file) => break file,
                Err(Errno::NOENT) => return Ok(None),
                // A rename on the path was seen while it was walked (openat2(2)).
                Err(Errno::AGAIN) => {}
                Err(Errno::XDEV) => return Err(self.not_trusted(path, "it leads out of the store")),
                Err(Errno::LOOP) => return Err(self.not_trusted(path, "it is a symbolic link")),
                Err(error) => return Err(self.read_failed(path, error.into())),
            }
        };
        let stat = fstat(&file).map_err(|error| self.read_failed(path, error.into()))?;
        match self.distrust(&stat) {
            Some(reason) => Err(self.not_trusted(path, reason)),
            None => Ok(Some(file.into())),
        }
    }

    /// Returns why a file is not trusted.
    fn distrust(&self, stat: &Stat) -> Option<&'static str> {
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            Some("it is not a regular file")
        } else if !self.strict {
            None
        } else if stat.st_uid != self.owner {
            Some("it does not belong to the store's owner")
        } else if stat.st_mode & OTHERS_MAY_WRITE != 0 {
            Some("others than its owner may write it")
        } else if stat.st_dev != self.device {
            Some("it is on another file system than the store")
        } else {
            None
        }
    }

    fn not_trusted(&self, path: &str, reason: &'static str) -> OpenError {
        OpenError::NotTrusted { store: self.path.clone(), path: path.to_owned(), reason }
    }

    pub(crate) fn read_failed(&self, path: &str, cause: io::Error) -> OpenError {
        OpenError::Read { store: self.path.clone(), path: path.to_owned(), cause }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn store() -> (tempfile::TempDir, LayerRecord) {
        let directory = tempfile::tempdir().unwrap();
        let create = |sub| fs::create_dir_all(directory.path().join(sub)).unwrap();
        ["parallax/layers", "parallax/names", "parallax/images"].into_iter().for_each(create);
        let hex = "ab".repeat(32);
        let layer = LayerRecord {
            id: hex.parse().unwrap(),
            link: crate::hash::link_of_layer(&hex),
            diff_id: hex.parse().unwrap(),
            size: 1,
            format: parallax_format::LayerFormat::Squashfs,
            squashfs_size: 1,
            squashfs_sha256: hex.parse().ok(),
            max_uid: 0,
            max_gid: 0,
            sidecar: false,
            tree: None,
            parts: Vec::new(),
        };
        (directory, layer)
    }

    fn reason(directory: &tempfile::TempDir, layer: &LayerRecord) -> String {
        TrustedStore::open(directory.path()).unwrap().open_layer(layer).unwrap_err().to_string()
    }

    #[test]
    fn a_good_layer_opens() {
        let (directory, layer) = store();
        fs::write(directory.path().join(layer.file_path()), "x").unwrap();
        TrustedStore::open(directory.path()).unwrap().open_layer(&layer).unwrap();
    }

    #[test]
    fn what_is_not_a_plain_file_of_the_owner_is_refused() {
        let (directory, layer) = store();
        let path = directory.path().join(layer.file_path());
        assert!(reason(&directory, &layer).contains("cannot be read"));

        symlink("/etc/passwd", &path).unwrap();
        assert!(reason(&directory, &layer).contains("symbolic link"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(reason(&directory, &layer).contains("not a regular file"));
        fs::remove_dir(&path).unwrap();

        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        assert!(reason(&directory, &layer).contains("not a regular file"));
        fs::remove_file(&path).unwrap();

        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o664)).unwrap();
        assert!(reason(&directory, &layer).contains("may write it"));
    }

    #[test]
    fn a_directory_that_is_a_link_out_of_the_store_is_refused() {
        let (directory, layer) = store();
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join(format!("{}.squash", layer.diff_id)), "x").unwrap();
        fs::remove_dir(directory.path().join("parallax/layers")).unwrap();
        symlink(other.path(), directory.path().join("parallax/layers")).unwrap();
        assert!(reason(&directory, &layer).contains("not trusted"));
    }

    #[test]
    fn an_index_entry_that_leads_out_of_the_store_is_refused() {
        let (directory, _) = store();
        let name = ImageName::for_storing("a").unwrap();
        symlink("../../../../../etc/passwd", directory.path().join(IndexPath::name(&name).unwrap())).unwrap();
        let store = TrustedStore::open(directory.path()).unwrap();
        let error = store.resolve(&ImageRef::parse("a").unwrap()).unwrap_err().to_string();
        assert!(error.contains("leads out of the store"), "{error}");
    }

    #[test]
    fn a_store_others_may_write_in_is_refused() {
        let (directory, _) = store();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(TrustedStore::open(directory.path()), Err(OpenError::NotTrusted { .. })));
    }

    #[test]
    fn an_unknown_image_is_none_and_names_are_listed() {
        let (directory, _) = store();
        fs::write(directory.path().join("parallax/names/localhost%2Fa:latest"), "").unwrap();
        let store = TrustedStore::open(directory.path()).unwrap();
        assert!(store.resolve(&ImageRef::parse("b").unwrap()).unwrap().is_none());
        assert_eq!(store.names(), [ImageName::for_storing("a").unwrap()]);
    }
}
