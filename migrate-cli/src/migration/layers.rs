//! Conversion of the layers that a store lacks.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, bail};
use parallax_format::digest::DiffId;
use parallax_format::{LayerFormat, layout};
use parallax_layers::{
    Below, ConvertError, Converted, Flattened, MAX_USUAL_ID, Owners, Shape, SquashfsOptions, UnusualOwners, convert,
    flatten,
};
use parallax_store::{LayerFile, TarSplit};
use parallax_sys::verity;

use super::{Finished, Migration, file_name};
use crate::image::{Image, Layer};
use crate::progress::LayerProgress;
use crate::source::{LayerStream, Source};
use crate::units;

/// A file that the store lacks.
#[derive(Debug, Clone, Copy)]
struct Missing<'a> {
    /// Position of the layer in the image.
    index: usize,
    layer: &'a Layer,
    format: LayerFormat,
}

/// The form of a layer's file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form<'a> {
    /// The one that all images with the layer share, in this format.
    Shared(LayerFormat),
    /// The one of a single chain of layers.
    Own(&'a Below),
}

impl Migration<'_> {
    /// Converts the layers that the store lacks, several at once, and records the sizes of the new ones.
    pub(super) fn convert_missing(
        &self,
        source: &Source,
        image: &Image,
        new: &mut BTreeMap<DiffId, u64>,
    ) -> anyhow::Result<Vec<Finished>> {
        let missing = self.missing(image)?;
        let workers = self.settings.jobs.min(missing.len());
        let queue: Mutex<VecDeque<_>> = Mutex::new(missing.into());
        let queue = || queue.lock().unwrap_or_else(PoisonError::into_inner);
        let worker = || {
            let mut done = Vec::new();
            loop {
                let Some(Missing { index, layer, format }) = queue().pop_front() else { return anyhow::Ok(done) };
                let name = file_name(&layer.diff_id, format);
                let one = self.made.get(&name, || self.convert_one(source, index, layer, &name, Form::Shared(format)));
                // The first failure is the image's: the others need not begin.
                done.push(one.inspect_err(|_| queue().clear())?);
            }
        };
        let results: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
            threads.into_iter().map(thread::ScopedJoinHandle::join).collect()
        });
        let mut all = Vec::new();
        for result in results {
            let Ok(done) = result else { bail!("a thread of the migration panicked; this is a defect of parallax") };
            for (finished, is_new) in done? {
                if is_new {
                    *new.entry(finished.1.diff_id).or_insert(0) += finished.1.squashfs_size;
                }
                all.push(finished);
            }
        }
        Ok(all)
    }

    /// Returns the files that the store lacks, each once; the largest layer first, so that it does not run alone at the end.
    fn missing<'a>(&self, image: &'a Image) -> anyhow::Result<Vec<Missing<'a>>> {
        let mut missing: BTreeMap<(&DiffId, LayerFormat), Missing<'_>> = BTreeMap::new();
        for (index, (layer, id)) in image.layers.iter().zip(image.chain_ids()).enumerate() {
            for &format in self.settings.formats {
                match self.store.layer_in(&layer.diff_id, format)? {
                    Some(there) => self.report_if_different(layer, &there),
                    // It may be there for this chain of layers alone.
                    None if self.store.own_file(&id)?.is_some() => {}
                    None => {
                        missing.entry((&layer.diff_id, format)).or_insert(Missing { index, layer, format });
                    }
                }
            }
        }
        let mut missing: Vec<_> = missing.into_values().collect();
        missing.sort_by_key(|missing| std::cmp::Reverse(missing.layer.blob.size));
        Ok(missing)
    }

    /// Reports layers in the store that differ from the requested settings: they stay unchanged, since images share them.
    fn report_if_different(&self, layer: &Layer, there: &LayerFile) {
        let short = layer.diff_id.short();
        let squash = self.settings.owners == Owners::Squash;
        if squash && there.max_uid.max(there.max_gid) > MAX_USUAL_ID {
            tracing::warn!(
                "layer {short}: already in the store, with owners up to {}, which are kept; to make them root's, remove all \
                 images that have the layer, then migrate with --squash-owners",
                there.max_uid.max(there.max_gid)
            );
        } else if !squash && there.squashed_owners {
            self.progress.line(&format!("layer {short}: already in the store, with owners squashed (--squash-owners)"));
        }
        if !self.settings.asked || there.format != LayerFormat::Squashfs {
            return;
        }
        let file = self.store.root().join(LayerFile::squashfs_path(&layer.diff_id));
        let Some(found) = form(&file).filter(|found| *found != wanted(&self.settings.squashfs)) else { return };
        self.progress.line(&format!("layer {short}: already in the store ({found}), which is kept"));
    }

    /// Converts a layer to a file called `name`.
    pub(super) fn convert_one(
        &self,
        source: &Source,
        index: usize,
        layer: &Layer,
        name: &str,
        form: Form<'_>,
    ) -> anyhow::Result<Finished> {
        let (format, below) = match form {
            Form::Shared(format) => (format, None),
            // Beside the link of one chain of layers only SquashFS has a place.
            Form::Own(below) => (LayerFormat::Squashfs, Some(below)),
        };
        let file = self.unfinished(name)?;
        let _slot = self.slots.take();
        let shown = self.progress.layer(&layer.diff_id, source.layer_size(index, layer));
        // May be left of an earlier attempt, whose layer was removed with an image.
        remove(&file)?;
        let tar_split = LayerFile::tar_split_beside(&file);
        let what = parallax_layers::Layer {
            tar_split: Some(&tar_split),
            limits: self.settings.limits,
            owners: self.settings.owners,
            below,
            ..parallax_layers::Layer::new(&layer.diff_id, &file)
        };
        let open = || open(source, index, layer, &shown);
        let done = convert(what, &self.maker(format)?, open)
            .map_err(|error| self.explain(error, &format!("layer {}", layer.diff_id.short())))?;
        protect(&file)?;
        let layer = self.finished(layer.diff_id, format, done);
        shown.done(layer.size, layer.squashfs_size, self.progress);
        Ok((file, layer))
    }

    /// Merges all layers of an image into one.
    pub(super) fn flatten(&self, source: &Source, image: &Image, format: LayerFormat) -> anyhow::Result<Finished> {
        let file = self.unfinished(&format!("flat-{}.{}", image.id, layout::extension_of(format)))?;
        let _slot = self.slots.take();
        remove(&file)?;
        let ids: Vec<&str> = image.layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let sizes = image.layers.iter().enumerate().map(|(index, layer)| source.layer_size(index, layer));
        let size = units::total(sizes);
        // Every layer is read twice.
        let shown = self.progress.layer(&image.id, 2 * size);
        let open = |index: usize| match image.layers.get(index) {
            Some(layer) => open_again(source, index, layer, &shown),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        let tar_split = LayerFile::tar_split_beside(&file);
        let layer = parallax_layers::Layer {
            tar_split: Some(&tar_split),
            limits: self.settings.limits,
            owners: self.settings.owners,
            ..parallax_layers::Layer::new("", &file)
        };
        let done =
            flatten(&ids, layer, &self.maker(format)?, open).map_err(|error| self.explain(error, "the image"))?;
        let Flattened { diff_id, converted } = done;
        protect(&file)?;
        let layer = self.finished(diff_id, format, converted);
        shown.done(layer.size, layer.squashfs_size, self.progress);
        Ok((file, layer))
    }

    fn finished(&self, diff_id: DiffId, format: LayerFormat, done: Converted) -> LayerFile {
        let Converted { size, squashfs_size, squashfs_sha256, fs_verity, content, max_uid, max_gid, .. } = done;
        let Converted { unusual_owners, shape, tar_split, unchecked, dropped_xattrs, .. } = done;
        self.warn_if_unusual(diff_id, &unusual_owners);
        if let Some(reason) = unchecked {
            self.warn_unchecked(&reason);
        }
        if !dropped_xattrs.is_empty() {
            let names: Vec<String> = dropped_xattrs.into_iter().collect();
            let short = diff_id.short();
            tracing::warn!(
                "layer {short}: extended attributes dropped, which the file cannot store: {}",
                names.join(", ")
            );
        }
        LayerFile {
            diff_id,
            size,
            format,
            squashfs_size,
            squashfs_sha256,
            fs_verity: Some(fs_verity),
            max_uid,
            max_gid,
            content: Some(content),
            tar_split: tar_split.map(|file| TarSplit { size: file.size, sha256: file.sha256 }),
            shape: Some(described(shape)),
            squashed_owners: self.settings.owners == Owners::Squash && unusual_owners.entries > 0,
        }
    }

    /// Warns about files whose owners have no subordinate ids.
    fn warn_if_unusual(&self, diff_id: DiffId, owners: &UnusualOwners) {
        let UnusualOwners { entries, path, uid, gid } = owners;
        if *entries == 0 {
            return;
        }
        let follows = match self.settings.owners {
            Owners::Squash => "squashed to root",
            Owners::Keep => {
                "to users without ids for them they are nobody's, and Podman without Parallax refuses such an image; \
                 --squash-owners makes them root's"
            }
        };
        let files =
            if *entries == 1 { "1 file has an owner".to_owned() } else { format!("{entries} files have owners") };
        tracing::warn!(
            "layer {}: {files} beyond {MAX_USUAL_ID}, such as /{path} (user {uid}, group {gid}): {follows}",
            diff_id.short()
        );
    }

    fn explain(&self, error: ConvertError, what: &str) -> anyhow::Error {
        let limits = self.settings.limits;
        let context = if error.is_too_large() {
            let max = units::bytes(limits.bytes);
            format!(
                "{what} exceeds the size limit of {max}; if the image is trusted, raise it with --max-layer-size SIZE"
            )
        } else if error.has_too_many_entries() {
            let max = limits.entries;
            format!(
                "{what} exceeds the limit of {max} files; if the image is trusted, raise it with --max-layer-entries N"
            )
        } else {
            format!("cannot convert {what}")
        };
        anyhow::Error::new(error).context(context)
    }
}

fn described(shape: Shape) -> parallax_store::Shape {
    let Shape { implied, root, opaque } = shape;
    parallax_store::Shape { implied, root: root.map(|root| (root.mode, root.uid, root.gid)), opaque }
}

fn open<'a>(
    source: &'a Source,
    index: usize,
    layer: &Layer,
    shown: &LayerProgress,
) -> io::Result<crate::progress::Counted<LayerStream<'a>>> {
    shown.restart();
    open_again(source, index, layer, shown)
}

fn open_again<'a>(
    source: &'a Source,
    index: usize,
    layer: &Layer,
    shown: &LayerProgress,
) -> io::Result<crate::progress::Counted<LayerStream<'a>>> {
    let blob = source.layer(index, layer).map(|blob| shown.count(blob));
    blob.map_err(|error| io::Error::other(format!("{error:#}")))
}

fn remove(file: &Path) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Describes a SquashFS file's compression: method and block size. The file does not record the level.
fn form(file: &Path) -> Option<String> {
    const UNCOMPRESSED_DATA: u16 = 2;
    let mut superblock = [0; 96];
    File::open(file).ok()?.read_exact(&mut superblock).ok()?;
    let u16_at =
        |at: usize| superblock.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_le_bytes);
    let block = u32::from_le_bytes(superblock[12..16].try_into().ok()?);
    let method = match u16_at(20) {
        _ if u16_at(24) & UNCOMPRESSED_DATA != 0 => "none",
        1 => "gzip",
        2 => "lzma",
        3 => "lzo",
        4 => "xz",
        5 => "lz4",
        6 => "zstd",
        _ => return None,
    };
    Some(format!("{method}, blocks of {} KiB", block >> 10))
}

/// Describes the compression of a file to be written.
fn wanted(options: &SquashfsOptions) -> String {
    let method = if options.raw_data { "none" } else { options.compression.method() };
    format!("{method}, blocks of {} KiB", options.block_size >> 10)
}

/// Has the kernel check a finished file whenever it reads the file, where the store's file system has fs-verity.
fn protect(file: &Path) -> anyhow::Result<()> {
    let enable = || -> io::Result<()> {
        let file = File::open(file)?;
        if verity::enable(&file)? { file.sync_all() } else { Ok(()) }
    };
    enable().with_context(|| format!("cannot enable fs-verity for {}", file.display()))
}
