//! `parallax list`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use parallax_file_system::FileSystem;
use parallax_format::LayerFormat;
use parallax_format::digest::{Digest, ImageId};
use parallax_format::layout::{self, CHUNK_STORE};
use parallax_format::record::ImageRecord;
use parallax_store::read::{self, Listed, ListedUnpacked};
use parallax_store::{ChunkTotals, LayerFile, Store, in_use};
use serde::Serialize;

use crate::chunking;
use crate::global::Global;
use crate::output::{print, print_json};
use crate::units;

mod trees;

/// Options of `parallax list`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Print a JSON array with one object for each image
    #[arg(long)]
    json: bool,
    /// List the images of the configuration's repositories of unpacked images instead of a store's
    #[arg(long)]
    trees: bool,
}

/// One image in the JSON form. Future versions only add fields.
#[derive(Debug, Serialize)]
struct Row<'a> {
    /// The image id.
    id: ImageId,
    /// The manifest's digest.
    digest: Digest,
    /// Fully qualified names, sorted; empty if another image took them over.
    names: Vec<String>,
    /// Time of the build, RFC 3339.
    created: &'a str,
    /// Number of layers.
    layers: usize,
    /// The size of its unpacked layers in bytes, as `podman images` shows it.
    size: u64,
    /// Size of its files in bytes, in all formats, shared ones included.
    stored: u64,
    /// Part of `stored` that other images share.
    shared: u64,
    /// Part of `stored` that no other image uses, freed by removing the image.
    unique: u64,
    /// `true` if another tool stored the image and it was not adopted.
    foreign: bool,
    /// Nodes that use the image now, according to in-use markers.
    in_use: Vec<String>,
    /// The chunks of its layers; null unless all layers are chunked.
    chunks: Option<Chunks>,
    /// The file system of the store.
    file_system: &'a str,
    /// The directory of an image that lies unpacked elsewhere (`parallax import`); null for images whose files are in the store.
    unpacked: Option<&'a Path>,
}

#[derive(Debug, Serialize)]
struct Chunks {
    /// Number of chunks; those that several layers share count for each.
    chunks: u64,
    /// Size of the chunks in the chunk store in bytes, shared ones included.
    stored: u64,
    /// Whether a layer has no SquashFS file, so that only nodes with parallax-lazy can use the image.
    only: bool,
}

/// The number of images with a file of layers, and its size in bytes, by its path in the store.
type Files = BTreeMap<String, (usize, u64)>;
/// The nodes that hold images, by image id.
type Holders = BTreeMap<String, Vec<String>>;

/// The sizes of EROFS files in bytes, by their paths in the store.
type ErofsFiles = BTreeMap<String, u64>;

/// Returns the EROFS files of a store. Layers whose records have SquashFS files may have such a file too.
fn erofs_files(store: &Store) -> anyhow::Result<ErofsFiles> {
    let directory = store.root().join(layout::LAYERS);
    let mut files = ErofsFiles::new();
    for entry in fs::read_dir(&directory).into_iter().flatten() {
        let entry = entry.with_context(|| directory.display().to_string())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some((diff_id, layout::EROFS)) = name.split_once('.') {
            // One that is removed meanwhile is no file of the store.
            let size = entry.metadata().map_or(0, |metadata| metadata.len());
            files.insert(layout::layer_file(diff_id, layout::EROFS), size);
        }
    }
    Ok(files)
}

/// Returns the files of an image with their sizes, each once.
fn own_files(record: &ImageRecord, erofs: &ErofsFiles) -> BTreeMap<String, u64> {
    let mut own: BTreeMap<String, u64> =
        record.layers.iter().map(|layer| (layer.file_path(), layer.squashfs_size)).collect();
    for layer in record.layers.iter().filter(|layer| !layer.sidecar) {
        let other = erofs.get_key_value(&LayerFile::path_in(&layer.diff_id, LayerFormat::Erofs));
        own.extend(other.map(|(path, size)| (path.clone(), *size)));
    }
    own
}

fn files(images: &[Listed], erofs: &ErofsFiles) -> Files {
    let mut files = Files::new();
    for Listed { record, .. } in images {
        for (file, size) in own_files(record, erofs) {
            files.entry(file).or_insert((0, size)).0 += 1;
        }
    }
    files
}

impl<'a> Row<'a> {
    fn new(listed: &'a Listed, files: &Files, erofs: &ErofsFiles, holders: &Holders, file_system: &'a str) -> Self {
        let record = &listed.record;
        let (size, _) = units::sizes(record);
        let own = own_files(record, erofs);
        let stored = units::total(own.values().copied());
        let unique = own.keys().filter_map(|file| files.get(file)).filter(|(images, _)| *images == 1);
        let unique = units::total(unique.map(|(_, size)| *size));
        Self {
            id: record.id,
            digest: record.digest,
            names: listed.names.iter().map(ToString::to_string).collect(),
            created: &record.created,
            layers: record.layers.len(),
            size,
            stored,
            shared: stored - unique,
            unique,
            foreign: listed.foreign,
            in_use: holders.get(record.id.as_str()).cloned().unwrap_or_default(),
            chunks: None,
            file_system,
            unpacked: record.tree(),
        }
    }

    /// The row of an image that lies unpacked elsewhere: nobody has counted its files, and the store has none.
    fn of_unpacked(image: &'a ListedUnpacked, file_system: &'a str) -> Self {
        Self {
            id: image.id,
            digest: image.digest,
            names: image.names.iter().map(ToString::to_string).collect(),
            created: &image.created,
            layers: 1,
            size: 0,
            stored: 0,
            shared: 0,
            unique: 0,
            foreign: false,
            in_use: Vec::new(),
            chunks: None,
            file_system,
            unpacked: Some(&image.directory),
        }
    }

    /// Looks up the image's chunks.
    fn with_chunks(mut self, store: &Store, record: &ImageRecord) -> anyhow::Result<Self> {
        let totals = chunking::totals(store, record)?;
        let mut only = false;
        for layer in &record.layers {
            only |= store.is_in_chunks_only(layer)?;
        }
        self.chunks = totals.map(|ChunkTotals { chunks, stored, .. }| Chunks { chunks, stored, only });
        Ok(self)
    }
}

/// Runs the command.
///
/// # Errors
/// If the store cannot be read.
pub(crate) fn run(global: &Global, options: &Options) -> anyhow::Result<()> {
    if options.trees {
        return trees::run(global, options.json);
    }
    let root = global.existing_store()?;
    let mut listing = read::list(&root)?;
    let holders = in_use::read(&root)?;
    for (path, error) in &listing.corrupt {
        tracing::warn!("{} cannot be used: {error}", path.display());
    }
    for problem in &listing.unusable {
        tracing::warn!("{problem}");
    }
    let file_system = FileSystem::of(&root).with_context(|| root.display().to_string())?.to_string();
    let store = Store::open(&root)?;
    let erofs = erofs_files(&store)?;
    let has_chunks = store.root().join(CHUNK_STORE).exists();
    if has_chunks {
        let layers = listing.images.iter_mut().flat_map(|image| &mut image.record.layers);
        for layer in layers {
            if store.is_in_chunks_only(layer)? {
                layer.squashfs_size = 0;
            }
        }
    }
    let files = files(&listing.images, &erofs);
    let row = |listed| -> anyhow::Result<Row<'_>> {
        let row = Row::new(listed, &files, &erofs, &holders, &file_system);
        if has_chunks { row.with_chunks(&store, &listed.record) } else { Ok(row) }
    };
    let mut rows = listing.images.iter().map(row).collect::<anyhow::Result<Vec<_>>>()?;
    rows.extend(listing.unpacked.iter().map(|image| Row::of_unpacked(image, &file_system)));
    if options.json {
        return print_json(&rows);
    }
    print(&table(&rows))?;
    if global.quiet || rows.is_empty() { Ok(()) } else { print(&totals(&rows, &files, &file_system)) }
}

fn totals(rows: &[Row<'_>], files: &Files, file_system: &str) -> String {
    let stored: u64 = units::total(files.values().map(|(_, size)| *size));
    let all: u64 = units::total(rows.iter().map(|row| row.stored));
    format!(
        "{}, {} stored on {file_system}, {} saved by sharing\n",
        units::count(rows.len(), "image"),
        units::bytes(stored),
        units::bytes(all.saturating_sub(stored))
    )
}

fn table(rows: &[Row<'_>]) -> String {
    const HEADER: [&str; 10] =
        ["NAME", "ID", "LAYERS", "CREATED", "SIZE", "STORED", "UNIQUE", "CHUNKS", "IN USE", "UNPACKED IN"];
    let mut header = HEADER.map(str::to_owned);
    // Columns without content are left out.
    if rows.iter().all(|row| row.chunks.is_none()) {
        header[7].clear();
    }
    if rows.iter().all(|row| row.in_use.is_empty()) {
        header[8].clear();
    }
    if rows.iter().all(|row| row.unpacked.is_none()) {
        header[9].clear();
    }
    let mut lines = vec![header];
    for row in rows {
        let names = if row.names.is_empty() { vec!["<none>".to_owned()] } else { row.names.clone() };
        lines.extend(names.into_iter().map(|name| {
            [
                name,
                row.id.short().to_owned(),
                row.layers.to_string(),
                row.created.chars().take(10).collect(),
                units::bytes(row.size),
                units::bytes(row.stored),
                units::bytes(row.unique),
                row.chunks.as_ref().map_or(String::new(), |chunks| units::bytes(chunks.stored)),
                if row.in_use.is_empty() { String::new() } else { units::count(row.in_use.len(), "node") },
                row.unpacked.map_or_else(String::new, |path| path.display().to_string()),
            ]
        }));
    }
    units::columns(&lines)
}

#[cfg(test)]
mod tests {
    use parallax_format::record::{LayerRecord, VERSION};
    use parallax_store::hash::{link_of_layer, sha256};

    use super::*;

    fn listed(id: &str, layers: &[(&str, u64)]) -> Listed {
        let layer = |(diff_id, squashfs_size): &(&str, u64)| LayerRecord {
            id: sha256(diff_id.as_bytes()).into(),
            link: link_of_layer(diff_id),
            diff_id: sha256(diff_id.as_bytes()).into(),
            size: 10 * squashfs_size,
            format: LayerFormat::Squashfs,
            squashfs_size: *squashfs_size,
            squashfs_sha256: None,
            max_uid: 0,
            max_gid: 0,
            sidecar: false,
            tree: None,
            parts: Vec::new(),
        };
        let record = ImageRecord {
            version: VERSION,
            id: sha256(id.as_bytes()).into(),
            digest: sha256(id.as_bytes()).into(),
            other_digests: Vec::new(),
            names: Vec::new(),
            created: "2026-01-01T00:00:00Z".to_owned(),
            manifest: String::new(),
            config: String::new(),
            layers: layers.iter().map(layer).collect(),
        };
        Listed { record, names: Vec::new(), foreign: false }
    }

    #[test]
    fn shared_bytes_count_once_and_unique_ones_are_what_removing_gives_back() {
        // A layer may be twice in one image: that is no sharing.
        let images = [listed("a", &[("base", 100), ("twice", 7), ("twice", 7)]), listed("b", &[("base", 100)])];
        let erofs = ErofsFiles::new();
        let files = files(&images, &erofs);
        let rows: Vec<_> =
            images.iter().map(|image| Row::new(image, &files, &erofs, &Holders::new(), "ext4")).collect();
        let sizes: Vec<_> = rows.iter().map(|row| (row.size, row.stored, row.shared, row.unique)).collect();
        assert_eq!(sizes, [(1140, 107, 100, 7), (1000, 100, 100, 0)]);
        assert_eq!(totals(&rows, &files, "ext4"), "2 images, 107 B stored on ext4, 100 B saved by sharing\n");
        assert!(table(&rows).lines().nth(1).unwrap().ends_with("1.14 kB  107 B   7 B"));
    }
}
