//! The source for the images of stores: SquashFS and EROFS files, mounted by the kernel once per node ([`super::table`]), or given to the mount
//! program.

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use parallax_format::LayerFormat;
use parallax_format::record::{ImageRecord, LayerRecord, VERSION_WITH_FORMATS};
use parallax_protocol::node::SourceStatus;
use parallax_store::read::TrustedStore;
use parallax_sys::credentials::Credentials;

use super::erofs::ReadBy;
use super::mounted::{Form, LayerError, MountedLayer};
use super::opened::Abilities;
use super::source::{LayerSource, StepLayers};
use super::table::LayerTable;
use crate::backend::{Backend, Chosen};

/// Maximum number of threads that mount layers of one image.
const MAX_MOUNT_THREADS: usize = 4;

/// The files of an image of a store.
#[derive(Debug)]
pub struct SquashfsFiles<'a> {
    /// The table of mounted layers.
    pub table: &'a LayerTable,
    /// The store.
    pub store: &'a TrustedStore,
    /// The image.
    pub image: &'a ImageRecord,
    /// The backend.
    pub chosen: Chosen,
    /// True if the store's owner is trusted.
    pub trusted: bool,
}

impl LayerSource for SquashfsFiles<'_> {
    fn status(&self, layers: &StepLayers) -> SourceStatus {
        let Chosen { backend, reason, .. } = &self.chosen;
        let (kind, about) = self.formats(layers);
        let reason = format!("{reason}{about}{}", about_chunks(layers.mounted()));
        SourceStatus { kind, backend: backend.as_str().to_owned(), reason }
    }

    fn outlives_processes(&self) -> bool {
        self.chosen.backend == Backend::Native
    }

    fn provide(&self, user: &Credentials) -> Result<StepLayers, LayerError> {
        match self.chosen.backend {
            Backend::Native => self.mounted(user).map(StepLayers::Mounted),
            Backend::Fuse => self.files(user),
        }
    }
}

/// Describes how many layers are read in chunks, and why others that have chunks are not; empty without chunks.
fn about_chunks(layers: &[Arc<MountedLayer>]) -> String {
    let chunked = layers.iter().filter(|layer| matches!(layer.form(), Form::Chunks(_))).count();
    let mut about =
        if chunked == 0 { String::new() } else { format!("; {chunked} of {} layers by chunks", layers.len()) };
    let mut reasons: Vec<&str> = layers
        .iter()
        .filter_map(|layer| if let Form::FileBecause(reason) = layer.form() { Some(reason.as_str()) } else { None })
        .collect();
    reasons.sort_unstable();
    reasons.dedup();
    if !reasons.is_empty() {
        about = format!("{about}; whole files instead of chunks: {}", reasons.join("; "));
    }
    about
}

/// Returns the names of formats in a fixed order, such as `squashfs, erofs`.
fn names(formats: &[LayerFormat]) -> String {
    let present = LayerFormat::ALL.into_iter().filter(|format| formats.contains(format));
    present.map(LayerFormat::name).collect::<Vec<_>>().join(", ")
}

impl SquashfsFiles<'_> {
    /// Returns the formats of the layers, and how and why they were chosen; the second is empty if there was no choice.
    fn formats(&self, layers: &StepLayers) -> (String, String) {
        let StepLayers::Mounted(mounted) = layers else {
            let formats: Vec<LayerFormat> = self.image.layers.iter().map(|layer| layer.format).collect();
            return (names(&formats), String::new());
        };
        let mut formats = Vec::new();
        let mut about = BTreeSet::new();
        for layer in mounted {
            match layer.form() {
                Form::Erofs(by) => {
                    formats.push(LayerFormat::Erofs);
                    about.insert(match by {
                        ReadBy::File => "EROFS without loop devices".to_owned(),
                        ReadBy::LoopDevice => "EROFS by loop devices".to_owned(),
                    });
                }
                Form::SquashfsBecause(reason) => {
                    formats.push(LayerFormat::Squashfs);
                    about.insert(format!("SquashFS instead of EROFS: {reason}"));
                }
                _ => formats.push(LayerFormat::Squashfs),
            }
        }
        (names(&formats), about.into_iter().map(|about| format!("; {about}")).collect())
    }

    /// Mounts the layers, several at a time because most of the time is spent in the kernel.
    fn mounted(&self, user: &Credentials) -> Result<Vec<Arc<MountedLayer>>, LayerError> {
        let Self { table, store, image, ref chosen, .. } = *self;
        // Layers that are mounted already need no threads.
        if let Some(mounted) = table.already(store, &image.layers, user)? {
            return Ok(mounted);
        }
        // No layer of an image of the first version is looked up in EROFS, nor is one whose contents are elsewhere.
        let erofs = chosen.erofs && image.version >= VERSION_WITH_FORMATS && image.tree().is_none();
        let kernel = &Abilities { erofs, chunks: chosen.chunks.clone() };
        let share = image.layers.len().div_ceil(MAX_MOUNT_THREADS).max(1);
        let mount = |layers: &[LayerRecord]| -> Result<Vec<_>, LayerError> {
            layers.iter().map(|layer| table.get(store, layer, user, kernel)).collect()
        };
        let shares: Result<Vec<_>, LayerError> = thread::scope(|scope| {
            let threads: Vec<_> = image.layers.chunks(share).map(|layers| scope.spawn(move || mount(layers))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
        });
        shares.map(|shares| shares.into_iter().flatten().collect())
    }

    /// Returns the files themselves. Those of a trusted store are opened and checked here. Those of other stores are opened by the
    /// user, with the user's own rights.
    fn files(&self, user: &Credentials) -> Result<StepLayers, LayerError> {
        let Self { table, store, image, trusted, .. } = *self;
        let mut files = Vec::new();
        let mut paths = Vec::new();
        for layer in &image.layers {
            if trusted || table.checks_files() {
                files.push(table.file(store, layer, user)?);
            }
            paths.push(store.path().join(layer.file_path()));
        }
        Ok(if trusted { StepLayers::Files(files) } else { StepLayers::Paths(paths) })
    }
}
