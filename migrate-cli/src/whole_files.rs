//! Images without SquashFS files, which are in the store in chunks alone: `--chunks-only`, and the way back.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use parallax_format::digest::ImageId;
use parallax_format::record::LayerRecord;
use parallax_store::{RemovedFiles, Store};

use crate::chunking::own_record;
use crate::interrupt::{self, Guarded};
use crate::progress::Progress;
use crate::units;

/// Moves the SquashFS files of images that have chunks to the trash. What the chunks give is compared with the recorded SHA-256 first.
///
/// # Errors
/// If chunks do not give the file that was recorded, or the store cannot be read or written. No file was removed then without chunks
/// that give it.
pub(crate) fn remove(store: &Store, images: &BTreeSet<ImageId>, progress: &Progress) -> anyhow::Result<()> {
    let mut seen = BTreeSet::new();
    for id in images {
        let record = own_record(store, id)?;
        ensure!(record.tree().is_none(), "the image {} lies unpacked, and its file is needed", id.short());
        for layer in record.layers {
            if !store.is_in_chunks_only(&layer)? && seen.insert(layer.file_path()) {
                let short = layer.diff_id.short();
                ensure!(store.chunk_totals(&layer)?.is_some(), "the layer {short} has no chunks, so its file stays");
                store.check_chunks(&layer).with_context(|| {
                    format!("the file of the layer {short} stays; repair its chunks with parallax chunk --again")
                })?;
            }
        }
    }
    let _uninterrupted = interrupt::hold();
    let RemovedFiles { files, bytes, needed } = store.remove_whole_files(images)?;
    if files > 0 {
        let (files, bytes) = (units::count(files, "SquashFS file"), units::bytes(bytes));
        progress.line(&format!("{files} ({bytes}) moved to the trash, which parallax gc empties"));
    }
    if needed > 0 {
        let files = units::count(needed, "SquashFS file");
        progress.line(&format!("{files} kept: images have the layers that are not in chunks only"));
    }
    Ok(())
}

/// Makes the SquashFS files of an image again that the store has in chunks alone. Returns their number.
///
/// # Errors
/// If chunks do not give the file that was recorded, or the store cannot be read or written.
pub(crate) fn restore(store: &Store, id: &ImageId, progress: &Progress) -> anyhow::Result<usize> {
    let record = own_record(store, id)?;
    let mut missing: Vec<&LayerRecord> = Vec::new();
    let mut seen = BTreeSet::new();
    for layer in &record.layers {
        if store.is_in_chunks_only(layer)? && seen.insert(layer.file_path()) {
            missing.push(layer);
        }
    }
    if missing.is_empty() {
        return Ok(0);
    }
    let work = Guarded::new(|| store.work_directory())?;
    for layer in &missing {
        let file = work.path().join("whole");
        store
            .make_file(&layer.chunk_index_path(), layer.squashfs_sha256, &file)
            .with_context(|| format!("cannot make the file of the layer {} again", layer.diff_id.short()))?;
        let _uninterrupted = interrupt::hold();
        store.add_whole_file(&record.id, layer, &file)?;
    }
    progress.line(&format!("{} made again from chunks", units::count(missing.len(), "SquashFS file")));
    Ok(missing.len())
}
