//! The interface of layer sources: whatever gives a read-only directory for each layer of a step's image.
//!
//! Each kind of layer has a module that implements [`LayerSource`]. Which one a step gets follows from where its image was found, and
//! the backend from what the node can do and from whom the files belong to ([`crate::backend`]); both are logged, recorded with the
//! lease and shown by `parallax status`.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use parallax_protocol::node::SourceStatus;
use parallax_sys::credentials::Credentials;

use super::mounted::{LayerError, MountedLayer};

/// A source of the layers of one image.
pub trait LayerSource {
    /// Returns what the layers that were provided are, what makes directories of them, and why.
    fn status(&self, layers: &StepLayers) -> SourceStatus;

    /// Returns `true` if the directories stay when all processes of the step have ended.
    fn outlives_processes(&self) -> bool;

    /// Provides the layers to a user who may read them. Whatever is opened is opened with the user's credentials.
    ///
    /// # Errors
    /// [`LayerError`].
    fn provide(&self, user: &Credentials) -> Result<StepLayers, LayerError>;
}

/// The layers of a step's image, base first.
#[derive(Debug)]
pub enum StepLayers {
    /// Mounted by the kernel.
    Mounted(Vec<Arc<MountedLayer>>),
    /// SquashFS files of a trusted store, open and checked: shown to the user as they are, wherever their paths lead.
    Files(Vec<File>),
    /// Paths of SquashFS files, or of a directory, which the user opens with their own rights.
    Paths(Vec<PathBuf>),
}

impl Default for StepLayers {
    fn default() -> Self {
        Self::Mounted(Vec::new())
    }
}

impl StepLayers {
    /// Returns the layers that the kernel has mounted.
    #[must_use]
    pub fn mounted(&self) -> &[Arc<MountedLayer>] {
        if let Self::Mounted(layers) = self { layers } else { &[] }
    }

    /// Returns the layers that the kernel has mounted, for as long as the step lasts.
    #[must_use]
    pub fn into_mounted(self) -> Vec<Arc<MountedLayer>> {
        if let Self::Mounted(layers) = self { layers } else { Vec::new() }
    }
}
