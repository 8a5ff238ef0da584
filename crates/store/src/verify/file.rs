//! Checks the files of layers, or the chunks that a store has in their place.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use parallax_chunks::Matcher;
use parallax_format::digest::{ImageId, Sha256};
use parallax_format::layer_file::LayerFile;
use parallax_format::record::LayerRecord;
use parallax_format::{LayerFormat, erofs, squashfs};
use parallax_sys::verity;

use super::{CHUNK_AGAIN, REPLACE_CHUNKS, REPLACE_FILE, TRACE_AGAIN, Verifier};
use crate::error::StoreError;
use crate::hash::Digester;

impl Verifier<'_> {
    /// Checks a layer's file that has no chunks.
    pub(super) fn whole_file(&mut self, image: &ImageId, layer: &LayerRecord) -> Result<(), StoreError> {
        let path = layer.file_path();
        let wrong = match self.files.get(&path) {
            Some(known) => known.clone(),
            None => check(&self.store.root().join(&path), layer, None)?,
        };
        if let Some(wrong) = &wrong {
            self.note(Some(image), &path, wrong, REPLACE_FILE);
        }
        self.files.insert(path, wrong);
        Ok(())
    }

    /// Compares the digest by which the kernel checks a layer's file, if it does, with the recorded one. A file that cannot be opened is
    /// reported elsewhere.
    pub(super) fn by_kernel(&mut self, image: &ImageId, layer: &LayerRecord, recorded: Sha256) {
        let path = layer.file_path();
        let file = File::open(self.store.root().join(&path)).ok();
        if let Some(found) = file.and_then(verity::measure).map(Sha256::from).filter(|found| *found != recorded) {
            let what = format!("has the fs-verity digest {found}, and {recorded} was recorded: nodes refuse the file");
            self.note(Some(image), &path, &what, REPLACE_FILE);
        }
    }

    /// Checks the EROFS file of a layer whose record has another file: nodes may take it as well.
    pub(super) fn other_file(&mut self, image: &ImageId, layer: &LayerRecord) -> Result<(), StoreError> {
        let format = LayerFormat::Erofs;
        if layer.sidecar || layer.tree.is_some() || layer.format == format {
            return Ok(());
        }
        if let Some(described) = self.store.layer_in(&layer.diff_id, format)? {
            let other = layer.with_file(&described);
            if let Some(recorded) = described.fs_verity {
                self.by_kernel(image, &other, recorded);
            }
            return self.whole_file(image, &other);
        }
        let [file, description] =
            [LayerFile::path_in(&layer.diff_id, format), LayerFile::description_path_in(&layer.diff_id, format)];
        if self.store.root().join(&file).exists() {
            let what = "does not describe the layer's EROFS file";
            self.note(Some(image), &description, what, REPLACE_FILE);
        }
        Ok(())
    }

    /// Checks a layer's file, and the chunks that it was cut into.
    pub(super) fn layer_file(&mut self, image: &ImageId, layer: &LayerRecord) -> Result<(), StoreError> {
        if layer.format != LayerFormat::Squashfs {
            return self.whole_file(image, layer);
        }
        let (file, index_path, trace_path) = (layer.file_path(), layer.chunk_index_path(), layer.chunk_trace_path());
        let known = self.files.contains_key(&index_path);
        let only_chunks = self.store.is_in_chunks_only(layer)?;
        let index = if known { None } else { self.read_index(&index_path)? };
        let mut matcher = index.as_ref().and_then(|index| index.as_ref().ok()).map(Matcher::new);
        let wrong = match self.files.get(&file).filter(|_| matcher.is_none()) {
            Some(known) => known.clone(),
            None if only_chunks => None,
            None => check(&self.store.root().join(&file), layer, matcher.as_mut())?,
        };
        let matches = only_chunks || matcher.is_none_or(|matcher| matcher.finish());
        if let Some(index) = &index {
            let wrong_index = match index {
                Err(error) => Some(error.clone()),
                Ok(_) if wrong.is_none() && !matches => Some("is not that of the layer's file".to_owned()),
                Ok(index) => match self.broken_chunks(index)? {
                    None if only_chunks => self.wrong_chunks(layer)?,
                    broken => broken,
                },
            };
            self.files.insert(index_path.clone(), wrong_index);
        }
        if !self.files.contains_key(&trace_path) {
            let wrong_trace = self.broken_trace(&trace_path, &index_path)?;
            self.files.insert(trace_path.clone(), wrong_trace);
        }
        if let Some(wrong) = &wrong {
            self.note(Some(image), &file, wrong, REPLACE_FILE);
        }
        self.files.insert(file, wrong);
        let remedy = if only_chunks { REPLACE_CHUNKS } else { CHUNK_AGAIN };
        for (path, remedy) in [(index_path, remedy), (trace_path, TRACE_AGAIN)] {
            if let Some(Some(wrong)) = self.files.get(&path).cloned() {
                self.note(Some(image), &path, &wrong, remedy);
            }
        }
        Ok(())
    }

    /// Returns the problem of chunks that are intact, if they do not give the layer's file.
    fn wrong_chunks(&self, layer: &LayerRecord) -> Result<Option<String>, StoreError> {
        match self.store.check_chunks(layer) {
            Ok(()) => Ok(None),
            Err(StoreError::Corrupt { what, .. }) => Ok(Some(format!("is corrupt: {what}"))),
            Err(error) => Err(error),
        }
    }
}

/// Returns the problem of a layer's file, if there is one.
fn check(
    path: &Path,
    layer: &LayerRecord,
    mut matcher: Option<&mut Matcher<'_>>,
) -> Result<Option<String>, StoreError> {
    let failed = |cause: io::Error| StoreError::Io { action: "read", path: path.to_owned(), cause };
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some("is not there".to_owned())),
        file => file.map_err(failed)?,
    };
    if !layer.sidecar && !fs::symlink_metadata(path).map_err(failed)?.is_file() {
        return Ok(Some("is not a regular file, so nodes refuse it".to_owned()));
    }
    let size = file.metadata().map_err(failed)?.len();
    if size != layer.squashfs_size {
        return Ok(Some(format!("has {size} bytes and should have {}", layer.squashfs_size)));
    }
    let mut superblock = Vec::new();
    file.by_ref()
        .take(squashfs::Superblock::BYTES.max(erofs::Superblock::BYTES))
        .read_to_end(&mut superblock)
        .map_err(failed)?;
    let used = match layer.format {
        LayerFormat::Squashfs => squashfs::Superblock::parse(&superblock).map(|superblock| superblock.bytes_used),
        LayerFormat::Erofs => erofs::Superblock::parse(&superblock).map(|superblock| superblock.bytes_used),
    };
    if used.is_none_or(|used| used > size) {
        return Ok(Some(format!("has no {} superblock that fits it", layer.format.title())));
    }
    let mut hash = Digester::default();
    let mut take = |bytes: &[u8]| {
        hash.update(bytes);
        if let Some(matcher) = &mut matcher {
            matcher.update(bytes);
        }
    };
    take(&superblock);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => break,
            got => take(buffer.get(..got).unwrap_or_default()),
        }
    }
    let is = hash.finish();
    Ok((Some(is) != layer.squashfs_sha256).then(|| format!("has changed: its SHA-256 is {is}")))
}
