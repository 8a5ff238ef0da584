//! Publication of an image's chunks in a registry: `parallax chunk --push`.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use parallax_chunks::{ChunkId, Index, Parameters};
use parallax_format::chunk_artifact::{
    ARTIFACT_TYPE, ChunkArtifact, EMPTY, LayerBlobs, image_tag, layer_tag, referrers_tag,
};
use parallax_format::digest::{Digest, ImageId, Sha256};
use parallax_format::layout::CHUNK_STORE;
use parallax_format::oci::{Descriptor, INDEX_TYPE, MANIFEST_TYPE, NAME_ANNOTATION};
use parallax_format::record::LayerRecord;
use parallax_store::Store;
use parallax_store::hash::{Digester, sha256};
use serde_json::{Value, json};

use crate::chunking::own_record;
use crate::interrupt::Guarded;
use crate::progress::Progress;
use crate::source::Repository;
use crate::units;

/// Sizes that the index of a blob has as those of chunks: the files of chunks are compressed, and may be larger than the chunks.
const SIZES: (u64, u64, u64) = (16 << 10, 64 << 10, 512 << 10);
/// The artifact's name in the OCI layout that is pushed.
const NAME: &str = "chunks";
/// The name of the index of what refers to the image.
const REFERRERS: &str = "referrers";

/// The chunks of a layer as they are pushed.
struct Layer<'a> {
    record: &'a LayerRecord,
    sha256: Sha256,
    /// The chunks, each once, in the order in which the layer needs them.
    ids: Vec<ChunkId>,
    /// Index of the blob.
    index: Vec<u8>,
}

/// Pushes the chunks of an image beside the image. Returns a sentence about what was done.
///
/// # Errors
/// The registry does not have the image or refuses the chunks, or the store's chunks cannot be read. What the registry has of the image
/// is not changed in any case.
pub(crate) fn push(store: &Store, id: &ImageId, to: &Repository, progress: &Progress) -> anyhow::Result<String> {
    let record = own_record(store, id)?;
    let subject = to.image(id, &record.digest)?;
    let manifest: Digest = subject.digest.parse()?;
    // While the directory exists, no chunk is removed from the store.
    let work = Guarded::new(|| store.chunk_directory())?;
    let mut seen = BTreeSet::new();
    let layers = record.layers.iter().filter(|layer| seen.insert(layer.file_path()));
    let layers = layers.map(|layer| Layer::read(store, layer)).collect::<anyhow::Result<Vec<_>>>()?;
    let tags = missing_tags(to, &manifest, &layers);
    let count = units::count(layers.len(), "layer");
    if tags.is_empty() {
        return Ok(format!("the registry has the chunks of {count}, nothing to do"));
    }
    let layout = work.path().join("layout");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("cannot make {}", blobs.display()))?;
    let mut pushed = Vec::new();
    for layer in &layers {
        let (chunks, size) = layer.write(store, &blobs, progress)?;
        let index = (write_blob(&blobs, &layer.index)?, layer.index.len() as u64);
        pushed.push(LayerBlobs { layer: layer.sha256, index, chunks: (chunks, size) });
    }
    write_layout(&layout, &ChunkArtifact::new(subject, &pushed))?;
    for tag in &tags {
        to.push(&layout, NAME, tag)?;
    }
    // Nodes find the artifact without.
    if let Err(error) = add_to_referrers(to, &layout, &manifest) {
        progress.line(&format!("other tools may not find the chunks by the image: {error:#}"));
    }
    let bytes: u64 = pushed.iter().map(|blobs| blobs.chunks.1).sum();
    Ok(format!("the chunks of {count} are in the registry ({})", units::bytes(bytes)))
}

/// Returns the tags whose artifacts do not have what they should have. A layer's tag may be another image's artifact.
fn missing_tags(to: &Repository, manifest: &Digest, layers: &[Layer<'_>]) -> Vec<String> {
    let has = |artifact: &ChunkArtifact, layer: &Layer<'_>| {
        artifact.blobs_of(&layer.sha256).is_some_and(|blobs| *blobs.index.0.sha256() == sha256(&layer.index))
    };
    let artifact = |tag: &str| ChunkArtifact::parse(&to.tagged(tag)?);
    let of_image = image_tag(manifest);
    let mut missing = Vec::new();
    if !artifact(&of_image).is_some_and(|found| {
        found.subject.digest == manifest.to_string() && layers.iter().all(|layer| has(&found, layer))
    }) {
        missing.push(of_image);
    }
    for layer in layers {
        let tag = layer_tag(&layer.sha256);
        if !artifact(&tag).is_some_and(|found| has(&found, layer)) {
            missing.push(tag);
        }
    }
    missing
}

impl<'a> Layer<'a> {
    /// Reads which chunks a layer has.
    fn read(store: &Store, record: &'a LayerRecord) -> anyhow::Result<Self> {
        let path = store.root().join(record.chunk_index_path());
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let of_layer = Index::parse(&bytes).with_context(|| format!("{} is corrupt", path.display()))?;
        let sha256 = record.squashfs_sha256.context("nobody recorded the SHA-256 of the layer's file")?;
        let mut seen = HashSet::new();
        let ids: Vec<ChunkId> = of_layer.parts().map(|part| part.id).filter(|id| seen.insert(*id)).collect();
        let size = |id: &ChunkId| {
            let path = chunk_path(store, id);
            let size = fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
            let (_, _, max) = SIZES;
            ensure!((1..=max).contains(&size), "{} is no chunk; run parallax verify", path.display());
            Ok((*id, size))
        };
        let sizes = ids.iter().map(size).collect::<anyhow::Result<Vec<_>>>()?;
        let (min, average, max) = SIZES;
        let index = Index::new(of_layer.algorithm(), Parameters::new(min, average, max)?, &sizes).to_bytes();
        Ok(Self { record, sha256, ids, index })
    }

    /// Writes the blob with the layer's chunks. Returns its digest and size.
    fn write(&self, store: &Store, blobs: &Path, progress: &Progress) -> anyhow::Result<(Digest, u64)> {
        let shown = progress.layer(&self.record.diff_id, self.record.squashfs_size);
        let path = blobs.join("new");
        let write = || -> anyhow::Result<(Digest, u64)> {
            let mut blob = Digested { file: BufWriter::new(File::create(&path)?), digest: Digester::default() };
            let mut size = 0;
            for id in &self.ids {
                let path = chunk_path(store, id);
                let chunk = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
                size += io::copy(&mut shown.count(chunk), &mut blob)?;
            }
            blob.file.flush()?;
            let digest = Digest::from(blob.digest.finish());
            fs::rename(&path, blobs.join(digest.sha256()))?;
            Ok((digest, size))
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

fn chunk_path(store: &Store, id: &ChunkId) -> PathBuf {
    store.root().join(CHUNK_STORE).join(id.path())
}

/// A file whose digest is taken as it is written.
struct Digested<W> {
    file: W,
    digest: Digester,
}

impl<W: Write> Write for Digested<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let size = self.file.write(bytes)?;
        self.digest.update(bytes.get(..size).unwrap_or_default());
        Ok(size)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn write_blob(blobs: &Path, bytes: &[u8]) -> anyhow::Result<Digest> {
    let digest = sha256(bytes);
    let path = blobs.join(digest);
    fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Digest::from(digest))
}

/// Adds the artifact to the index of what refers to the image. Registries that know what refers to an image do not need it, which skopeo
/// does not tell. Tools of others keep their entries.
fn add_to_referrers(to: &Repository, layout: &Path, manifest: &Digest) -> anyhow::Result<()> {
    let tag = referrers_tag(manifest);
    let mut layouts: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
    let mut entry = layouts.pointer("/manifests/0").cloned().context("no artifact")?;
    if let Some(entry) = entry.as_object_mut() {
        entry.remove("annotations");
        entry.insert("artifactType".to_owned(), ARTIFACT_TYPE.into());
    }
    let mut index = to
        .tagged(&tag)
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_else(|| json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [] }));
    let entries = index.get_mut("manifests").and_then(Value::as_array_mut);
    let entries = entries.with_context(|| format!("the tag {tag} is something else"))?;
    // What an earlier push of other chunks left.
    entries.retain(|entry| entry.get("artifactType").and_then(Value::as_str) != Some(ARTIFACT_TYPE));
    entries.push(entry);
    let bytes = serde_json::to_vec(&index)?;
    let digest = write_blob(&layout.join("blobs/sha256"), &bytes)?;
    if let Some(manifests) = layouts.get_mut("manifests").and_then(Value::as_array_mut) {
        let annotations = json!({ NAME_ANNOTATION: REFERRERS });
        let (digest, size) = (digest.to_string(), bytes.len());
        manifests.push(json!({ "mediaType": INDEX_TYPE, "digest": digest, "size": size, "annotations": annotations }));
    }
    fs::write(layout.join("index.json"), layouts.to_string())?;
    to.push(layout, REFERRERS, &tag)
}

/// Writes what of the OCI layout is not there: the artifact's manifest and configuration, and the index.
fn write_layout(layout: &Path, artifact: &ChunkArtifact) -> anyhow::Result<()> {
    let blobs = layout.join("blobs/sha256");
    let bytes = artifact.to_bytes();
    write_blob(&blobs, EMPTY)?;
    let digest = write_blob(&blobs, &bytes)?;
    let media_type = Some(MANIFEST_TYPE.to_owned());
    let descriptor = Descriptor { media_type, digest: digest.to_string(), size: bytes.len() as u64 };
    let mut entry = serde_json::to_value(descriptor)?;
    if let Some(entry) = entry.as_object_mut() {
        entry.insert("annotations".to_owned(), json!({ NAME_ANNOTATION: NAME }));
    }
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    fs::write(layout.join("index.json"), index.to_string())?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(())
}
