//! The source for an image that is a path of the node: a directory, or a SquashFS file.
//!
//! The agent opens nothing: the launcher opens the path with the user's rights, in the container's user namespace. An id-mapped
//! mount of a directory would show the user files that only their owner may read, so the agent makes no such mount; the kernel reads no file of a user.

use std::path::Path;

use parallax_format::is_squashfs_name;
use parallax_protocol::node::SourceStatus;
use parallax_sys::credentials::Credentials;

use super::mounted::LayerError;
use super::source::{LayerSource, StepLayers};
use crate::backend::{Backend, Chosen};

/// A path that a user names as the image.
#[derive(Debug)]
pub struct Directory<'a> {
    /// Its path, as the user wrote it.
    pub path: &'a Path,
    /// The backend.
    pub chosen: Chosen,
}

impl LayerSource for Directory<'_> {
    fn status(&self, _layers: &StepLayers) -> SourceStatus {
        let Chosen { backend, reason, .. } = &self.chosen;
        // The agent does not look, so the name has to tell.
        let is_file = self.path.to_str().is_some_and(is_squashfs_name);
        let kind = if is_file { "SquashFS file" } else { "directory" };
        SourceStatus { kind: kind.to_owned(), backend: backend.as_str().to_owned(), reason: reason.clone() }
    }

    fn outlives_processes(&self) -> bool {
        self.chosen.backend == Backend::Native
    }

    fn provide(&self, _user: &Credentials) -> Result<StepLayers, LayerError> {
        Ok(StepLayers::Paths(vec![self.path.to_owned()]))
    }
}
