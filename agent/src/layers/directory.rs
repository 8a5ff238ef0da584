//! The source for an image that is a directory of the node.
//!
//! The agent opens nothing: the launcher opens the directory with the user's rights, in the container's user namespace. An id-mapped
//! mount of it would show the user files that only their owner may read, so there is none.

use std::path::Path;

use parallax_protocol::node::SourceStatus;
use parallax_sys::credentials::Credentials;

use super::source::{LayerSource, StepLayers};
use super::table::LayerError;
use crate::backend::{Backend, Chosen};

/// The kind of such a layer in logs and in `parallax status`.
const KIND: &str = "directory";

/// A directory that a user names as the image.
#[derive(Debug)]
pub struct Directory<'a> {
    /// Its path, as the user wrote it.
    pub path: &'a Path,
    /// The backend.
    pub chosen: Chosen,
}

impl LayerSource for Directory<'_> {
    fn status(&self) -> SourceStatus {
        let Chosen { backend, reason } = &self.chosen;
        SourceStatus { kind: KIND.to_owned(), backend: backend.as_str().to_owned(), reason: reason.clone() }
    }

    fn outlives_processes(&self) -> bool {
        self.chosen.backend == Backend::Native
    }

    fn provide(&self, _user: &Credentials) -> Result<StepLayers, LayerError> {
        Ok(StepLayers::Paths(vec![self.path.to_owned()]))
    }
}
