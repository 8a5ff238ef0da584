//! Access checks on behalf of a user, to be made with the user's credentials in force.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use parallax_format::layout::LAYERS;
use parallax_format::record::LayerRecord;
use parallax_sys::credentials::may_read;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::read::trusted::{OpenError, TrustedStore};

impl TrustedStore {
    /// Checks that the directory of the SquashFS files may be searched: one path lookup.
    ///
    /// # Errors
    /// [`OpenError::Read`].
    pub fn check_layers_directory(&self) -> Result<(), OpenError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let opened = openat2(self.root(), format!("{LAYERS}/."), flags, Mode::empty(), resolve);
        opened.map(drop).map_err(|error| self.read_failed(LAYERS, error.into()))
    }

    /// Checks that the SquashFS file of a layer, which is open already, may be read. The way to it is checked by
    /// [`TrustedStore::check_layers_directory`]; the file of another tool's layer is looked up anew.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn check_open_layer(&self, layer: &LayerRecord, file: Option<BorrowedFd<'_>>) -> Result<(), OpenError> {
        let Some(file) = file.filter(|_| !layer.sidecar) else { return self.check_file_or_chunks(layer) };
        match may_read(file) {
            // Linux before 5.8 checks paths only.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.check_file_or_chunks(layer),
            checked => checked.map_err(|error| self.read_failed(&layer.file_path(), error)),
        }
    }

    /// Checks that the SquashFS file of a layer may be read; if the store has the layer in chunks only, their index.
    fn check_file_or_chunks(&self, layer: &LayerRecord) -> Result<(), OpenError> {
        match self.open_layer(layer) {
            Err(error) if error.is_missing() && self.open_chunks(layer)?.is_some() => Ok(()),
            opened => opened.map(drop),
        }
    }
}

impl OpenError {
    /// Returns `true` if a file of the store does not exist.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Read { cause, .. } if cause.kind() == io::ErrorKind::NotFound)
    }

    /// The store, if this is a denied permission in it or on the way to it.
    #[must_use]
    pub fn denied(&self) -> Option<&Path> {
        let (store, cause) = match self {
            Self::Store { path, cause } => (path, cause),
            Self::Read { store, cause, .. } => (store, cause),
            _ => return None,
        };
        (cause.kind() == io::ErrorKind::PermissionDenied).then_some(store)
    }
}
