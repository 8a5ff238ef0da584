//! `parallax inspect`.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use anyhow::Context as _;
use parallax_format::LayerFormat;
use parallax_format::digest::{Digest, ImageId, Sha256};
use parallax_format::oci::Execution;
use parallax_format::record::{ImageRecord, LayerRecord};
use parallax_store::{ChunkTotals, LayerFile, Store, in_use};
use parallax_sys::verity;
use serde::Serialize;

use super::find::{find, record};
use crate::global::Global;
use crate::output::{print, print_json};
use crate::units;

mod settings;
mod trees;

use settings::Settings;

/// Options of `parallax inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Image: name, digest or id; name or path of an unpacked image
    image: String,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// The JSON form. Future versions only add fields.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// The image id.
    id: ImageId,
    /// The manifest's digest.
    digest: Digest,
    /// Fully qualified names.
    names: &'a [String],
    /// Time of the build, RFC 3339.
    created: &'a str,
    /// The size of its unpacked layers in bytes, as `podman images` shows it.
    size: u64,
    /// Size of its files in bytes, in all formats.
    stored: u64,
    /// `true` if another tool stored the image and it was not adopted.
    foreign: bool,
    /// The directory of an image that lies unpacked elsewhere; null for images whose files are in the store.
    unpacked: Option<&'a Path>,
    /// The directories of its layers below that, the topmost first; empty for an image that is one directory.
    parts: &'a [String],
    /// Nodes that use the image now, according to in-use markers.
    in_use: Vec<String>,
    /// The layers, base first.
    layers: Vec<LayerRow>,
    /// Settings for running the image.
    config: Settings,
}

#[derive(Debug, Serialize)]
struct LayerRow {
    /// The digest of the uncompressed tar; for a layer in another tool's file, Podman's id of it.
    diff_id: Digest,
    /// The size of the uncompressed tar in bytes.
    size: u64,
    /// The format of the layer's file: `squashfs` or `erofs`.
    format: LayerFormat,
    /// The size of the file in bytes; 0 if the store has the layer in chunks only.
    stored: u64,
    /// The file's path.
    file: String,
    /// The SHA-256 of the file; null if not recorded.
    squashfs_sha256: Option<Sha256>,
    /// Whether the kernel checks the file when it is read (fs-verity).
    fs_verity: bool,
    /// The layer's EROFS file beside its SquashFS file; null without one.
    erofs: Option<ErofsRow>,
    /// The chunks of the SquashFS file; null if it is not chunked.
    chunks: Option<ChunkRow>,
}

#[derive(Debug, Serialize)]
struct ErofsRow {
    /// Its path.
    file: String,
    /// Its size in bytes.
    stored: u64,
    /// Its SHA-256.
    sha256: Sha256,
}

#[derive(Debug, Serialize)]
struct ChunkRow {
    /// Path of the index.
    index: String,
    /// Number of chunks, each counted once.
    chunks: u64,
    /// Size of the chunks in the chunk store in bytes, including those that other layers share.
    stored: u64,
    /// Number of chunks that nodes fetch first (`parallax trace`); null without a trace.
    traced: Option<usize>,
    /// Whether the layer has no SquashFS file, so that only nodes with parallax-lazy can use it.
    only: bool,
}

/// Runs the command.
///
/// # Errors
/// If the image is not found or its record is corrupt.
pub(crate) fn run(global: &Global, options: &Options) -> anyhow::Result<()> {
    let found = global.existing_store().and_then(|path| {
        let store = Store::open(&path)?;
        let id = find(&store, &options.image)?.id;
        Ok((store, id))
    });
    let (store, id) = match found {
        Ok(found) => found,
        // An image that no store has may lie unpacked.
        Err(error) => return trees::run(global, &options.image, options.json).unwrap_or(Err(error)),
    };
    if let Some(directory) = store.unpacked_image(&id)? {
        return trees::of_directory(&directory, &options.image, options.json);
    }
    let (record, foreign) = record(&store, &id)?;
    let holders = in_use::read(store.root())?.remove(id.as_str()).unwrap_or_default();
    let parsed = Execution::of_configuration(&record.config)
        .with_context(|| format!("cannot parse the configuration of {id}"))?;
    let report = Report { foreign, in_use: holders, ..Report::new(&store, &record, parsed.into())? };
    if options.json { print_json(&report) } else { print(&report.text()) }
}

impl<'a> Report<'a> {
    fn new(store: &Store, record: &'a ImageRecord, config: Settings) -> anyhow::Result<Self> {
        let path = |path: String| store.root().join(path).display().to_string();
        let chunks = |layer: &LayerRecord| -> anyhow::Result<Option<ChunkRow>> {
            let Some(ChunkTotals { chunks, stored, .. }) = store.chunk_totals(layer)? else { return Ok(None) };
            let (index, traced) = (path(layer.chunk_index_path()), store.traced_chunks(layer)?);
            Ok(Some(ChunkRow { index, chunks, stored, traced, only: store.is_in_chunks_only(layer)? }))
        };
        let erofs = |layer: &LayerRecord| -> anyhow::Result<Option<ErofsRow>> {
            if layer.sidecar || layer.format == LayerFormat::Erofs {
                return Ok(None);
            }
            let there = store.layer_in(&layer.diff_id, LayerFormat::Erofs)?;
            Ok(there.map(|there| ErofsRow {
                file: path(LayerFile::path_in(&there.diff_id, there.format)),
                stored: there.squashfs_size,
                sha256: there.squashfs_sha256,
            }))
        };
        let row = |layer: &LayerRecord| -> anyhow::Result<LayerRow> {
            let chunks = chunks(layer)?;
            let only = chunks.as_ref().is_some_and(|chunks| chunks.only);
            Ok(LayerRow {
                diff_id: layer.diff_id.into(),
                size: layer.size,
                format: layer.format,
                erofs: erofs(layer)?,
                stored: if only { 0 } else { layer.squashfs_size },
                file: path(layer.file_path()),
                squashfs_sha256: layer.squashfs_sha256,
                fs_verity: File::open(store.root().join(layer.file_path())).ok().and_then(verity::measure).is_some(),
                chunks,
            })
        };
        let layers: Vec<LayerRow> = record.layers.iter().map(row).collect::<anyhow::Result<_>>()?;
        let (size, _) = units::sizes(record);
        let mut files: BTreeMap<&str, u64> = layers.iter().map(|layer| (layer.file.as_str(), layer.stored)).collect();
        files.extend(
            layers.iter().filter_map(|layer| layer.erofs.as_ref()).map(|file| (file.file.as_str(), file.stored)),
        );
        let stored = units::total(files.into_values());
        let ImageRecord { id, digest, names, created, .. } = record;
        Ok(Self {
            id: *id,
            digest: *digest,
            names,
            created,
            size,
            stored,
            foreign: false,
            unpacked: record.tree(),
            parts: record.parts(),
            in_use: Vec::new(),
            layers,
            config,
        })
    }

    fn text(&self) -> String {
        let mut lines = vec![
            ("Names", if self.names.is_empty() { "<none>".to_owned() } else { self.names.join("\n") }),
            ("Id", self.id.to_string()),
            ("Digest", self.digest.to_string()),
            ("Created", self.created.to_owned()),
            ("Size", format!("{}, {} stored", units::bytes(self.size), units::bytes(self.stored))),
        ];
        if self.foreign {
            lines.push((
                "Brought by",
                "another tool; parallax migrate --adopt brings it up to the full format".to_owned(),
            ));
        }
        lines.extend(self.unpacked.map(|directory| ("Unpacked in", directory.display().to_string())));
        if !self.parts.is_empty() {
            lines.push(("Layers there", self.parts.join("\n")));
        }
        if !self.in_use.is_empty() {
            lines.push(("In use on", self.in_use.join("\n")));
        }
        let layer = |layer: &LayerRow| {
            let (size, stored) = (units::bytes(layer.size), units::bytes(layer.stored));
            let chunks = layer.chunks.as_ref().map_or(String::new(), |chunks| {
                let traced = chunks.traced.map_or(String::new(), |traced| format!(", {traced} fetched first"));
                let ChunkRow { index, chunks, stored, .. } = chunks;
                format!("\n  {index}\n  {chunks} chunks, {} stored{traced}", units::bytes(*stored))
            });
            let erofs = layer
                .erofs
                .as_ref()
                .map_or(String::new(), |erofs| format!("\n  {}\n  {} stored", erofs.file, units::bytes(erofs.stored)));
            if layer.chunks.as_ref().is_some_and(|chunks| chunks.only) {
                return format!("{} {size}, in chunks only{erofs}{chunks}", layer.diff_id);
            }
            let checked = if layer.fs_verity { ", checked by the kernel (fs-verity)" } else { "" };
            format!("{} {size}, {stored} stored{checked}\n  {}{erofs}{chunks}", layer.diff_id, layer.file)
        };
        lines.push(("Layers", self.layers.iter().map(layer).collect::<Vec<_>>().join("\n")));
        lines.extend(self.config.lines());
        settings::text(&lines)
    }
}
