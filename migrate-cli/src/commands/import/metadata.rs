//! The metadata images that `parallax import` makes of unpacked images.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use parallax_file_system::{Can, FileSystem};
use parallax_layers::{Mksquashfs, metadata_image};
use parallax_store::{Metadata, Store};

use crate::interrupt::Guarded;

/// When images get a metadata image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Wanted {
    /// On file systems without mapped ids, such as CVMFS
    Auto,
    /// On all file systems
    Always,
    /// Never
    Never,
}

/// Makes the metadata images of one call.
#[derive(Debug)]
pub(super) struct Maker<'a> {
    store: &'a Store,
    wanted: Wanted,
    /// Whether the repository's file system needs them.
    without_maps: bool,
    /// Made when the first image needs it: a call without work changes nothing.
    work: Option<Guarded>,
}

impl<'a> Maker<'a> {
    /// Returns what makes the metadata images of a repository.
    ///
    /// # Errors
    /// If the file system of the repository cannot be told.
    pub(super) fn new(store: &'a Store, repository: &Path, wanted: Wanted) -> anyhow::Result<Self> {
        let found = FileSystem::of(repository).with_context(|| repository.display().to_string())?;
        Ok(Self { store, wanted, without_maps: found.kind.mapped_ids != Can::Yes, work: None })
    }

    /// Whether an image is to have one. One that lies in layers cannot do without.
    ///
    /// # Errors
    /// If an image cannot do without, and there are to be none.
    pub(super) fn is_wanted(&self, is_in_layers: bool) -> anyhow::Result<bool> {
        ensure!(
            self.wanted != Wanted::Never || !is_in_layers,
            "the repository has only the image's layers, which are one directory only by a metadata image: leave out --metadata=never"
        );
        Ok(match self.wanted {
            Wanted::Always => true,
            Wanted::Never => false,
            Wanted::Auto => self.without_maps || is_in_layers,
        })
    }

    /// Writes the metadata image of a directory, or of the layers in it.
    ///
    /// # Errors
    /// If a file of the directory cannot be read, the store cannot be written, or mksquashfs is missing.
    pub(super) fn make(&mut self, directory: &Path, parts: &[String]) -> anyhow::Result<Metadata> {
        let tool = Mksquashfs::find().context("cannot make a metadata image")?;
        let file = self.file()?;
        let made = metadata_image(directory, parts, &file, tool).with_context(|| {
            let shown = directory.display();
            format!("cannot make the metadata image of {shown} (an account that may read all of it can, often root)")
        })?;
        let parallax_layers::MetadataImage { squashfs_size, squashfs_sha256, totals } = made;
        let parallax_layers::Totals { size, max_uid, max_gid, entries } = totals;
        tracing::debug!(directory = %directory.display(), entries, squashfs_size, "made a metadata image");
        Ok(Metadata { file, size, squashfs_size, squashfs_sha256, max_uid, max_gid })
    }

    /// Returns the path of an unfinished file, which does not exist.
    fn file(&mut self) -> anyhow::Result<PathBuf> {
        let work = match &mut self.work {
            Some(work) => work,
            none => none.insert(Guarded::new(|| self.store.work_directory())?),
        };
        let file = work.path().join("metadata");
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(file),
        }
    }
}
