//! Images that podman-hpc and the Go tool brought, read as they are.
//!
//! Both leave Podman's lists and, beside the link of a layer, a SquashFS file: `overlay/l/<LINK>.squash`, which is a plain
//! file (podman-hpc) or a symbolic link to `squash/<LINK>.squash` (the Go tool). Both flatten: the file of the top layer
//! holds the whole image, and that layer has no `lower`. podman-hpc lists the layers below it all the same; their
//! directories are empty. A layer that has `lower` needs a file for each layer named there.
//!
//! There is no record of such an image, so finding one reads Podman's whole list. That is the price of not adopting it
//! (`parallax migrate --adopt`). Images that lie unpacked elsewhere ([`super::unpacked`]) are found in the same way.

use std::collections::{BTreeSet, HashMap};
use std::io::Read as _;
use std::path::PathBuf;

use parallax_format::digest::{Digest, ImageId, LayerId};
use parallax_format::layout::{self, IMAGES_JSON, LAYERS_JSON};
use parallax_format::oci::Manifest;
use parallax_format::podman::{Link, ListedImage, ListedLayer, big_data_file};
use parallax_format::record::{ImageRecord, LayerRecord, MAX_BYTES, VERSION};
use parallax_format::squashfs::Superblock;
use parallax_format::{ImageRef, IndexPath};
use serde::Deserialize;

use crate::hash::sha256;
use crate::read::trusted::{OpenError, TrustedStore};

/// The largest list that is read: Podman itself is slow long before.
const MAX_LIST_BYTES: u64 = 1 << 30;
/// The longest `link` or `lower`: 500 links of 28 bytes are more layers than overlayfs takes.
const MAX_LINK_BYTES: u64 = 64 << 10;
/// Creation time of an image whose entry has none.
const NO_DATE: &str = "1970-01-01T00:00:00Z";

/// The sizes in Podman's list of layers.
#[derive(Debug, Default)]
pub struct LayerSizes(HashMap<String, (String, u64)>);

/// Reads Podman's list of images, the bytes of images.json.
///
/// # Errors
/// They are no list of images.
pub fn listed_images(bytes: &[u8]) -> serde_json::Result<Vec<ListedImage>> {
    entries(bytes, |_| true)
}

impl LayerSizes {
    /// Reads Podman's list of layers, the bytes of layers.json.
    ///
    /// # Errors
    /// They are no list of layers.
    pub fn parse(bytes: &[u8]) -> serde_json::Result<Self> {
        Ok(Self::of(entries(bytes, |_| true)?))
    }

    fn of(entries: Vec<ListedLayer>) -> Self {
        let size = |entry: ListedLayer| (entry.id, (entry.parent, u64::try_from(entry.size).unwrap_or(0)));
        Self(entries.into_iter().map(size).collect())
    }

    /// Returns the size that Podman shows for an image with this top layer, in bytes.
    #[must_use]
    pub fn of_chain(&self, top: &str) -> u64 {
        let mut sum = 0_u64;
        let mut next = self.0.get(top);
        // A circle ends.
        for _ in 0..=self.0.len() {
            let Some((parent, size)) = next else { break };
            sum = size.saturating_add(sum);
            next = self.0.get(parent);
        }
        sum
    }
}

/// An image without a record.
#[derive(Debug)]
pub enum Unrecorded {
    /// Another tool's image, as a record.
    Record(Box<ImageRecord>),
    /// The directory in which the image lies unpacked.
    Unpacked(PathBuf),
}

impl TrustedStore {
    /// The image a reference means among those without a record. `None` if no image matches.
    ///
    /// This reads Podman's list of images, and so its time grows with their number: ask [`TrustedStore::resolve`] first.
    ///
    /// # Errors
    /// [`OpenError`], for an image that is there and can't be used.
    pub fn resolve_unrecorded(&self, reference: &ImageRef) -> Result<Option<Unrecorded>, OpenError> {
        let fitting = self.listed(|entry| entry.fits(reference).is_some())?;
        let unrecorded = fitting.into_iter().filter(|entry| self.is_foreign(entry));
        let Some(entry) = unrecorded.min_by_key(|entry| entry.fits(reference)) else { return Ok(None) };
        if let Some(directory) = self.unpacked(&entry)? {
            return Ok(Some(Unrecorded::Unpacked(directory)));
        }
        let record = self.foreign_record(&entry, &LayerSizes::default())?;
        Ok(Some(Unrecorded::Record(Box::new(record))))
    }

    /// The images in Podman's list that have no record.
    ///
    /// # Errors
    /// [`OpenError`] if the list can't be read.
    pub fn foreign_images(&self) -> Result<Vec<ListedImage>, OpenError> {
        Ok(self.listed(|_| true)?.into_iter().filter(|entry| self.is_foreign(entry)).collect())
    }

    /// The images in Podman's list but those with these ids.
    ///
    /// # Errors
    /// [`OpenError`] if the list can't be read.
    pub fn images_but(&self, known: &BTreeSet<ImageId>) -> Result<Vec<ListedImage>, OpenError> {
        self.listed(|entry| ImageId::parse(&entry.id).is_some_and(|id| !known.contains(&id)))
    }

    /// Whether an entry is of an image without a record.
    fn is_foreign(&self, entry: &ListedImage) -> bool {
        ImageId::parse(&entry.id).is_some_and(|id| !self.has(&IndexPath::record(&id)))
    }

    /// The sizes in Podman's list of layers.
    ///
    /// # Errors
    /// [`OpenError`] if the list can't be read.
    pub fn layer_sizes(&self) -> Result<LayerSizes, OpenError> {
        self.list(LAYERS_JSON, |_| true).map(LayerSizes::of)
    }

    /// All that a node needs to start the image, as a record, with nothing of it checked but its digests.
    ///
    /// The layers' digests are unknown and their highest ids 0: nobody recorded them. Their sizes are those in `sizes`,
    /// or of their files.
    ///
    /// # Errors
    /// [`OpenError`] says what is missing.
    pub fn foreign_record(&self, entry: &ListedImage, sizes: &LayerSizes) -> Result<ImageRecord, OpenError> {
        let id = self.id_of(entry)?;
        let manifest = self.big_data(entry, "manifest")?;
        let parsed: Manifest = serde_json::from_slice(&manifest)
            .map_err(|error| self.unusable(entry, &format!("its manifest is corrupt: {error}")))?;
        let config = self.big_data(entry, &parsed.config.digest)?;
        if Digest::parse(&parsed.config.digest) != Some(sha256(&config).into()) {
            return Err(self.unusable(entry, "its configuration does not match its digest"));
        }
        let text = |bytes| String::from_utf8(bytes).map_err(|_| self.unusable(entry, "its manifest is no text"));
        let digest = sha256(&manifest).into();
        let mut layers = self.foreign_layers(entry)?;
        if let Some(top) = layers.last_mut() {
            top.size = top.size.max(sizes.of_chain(&entry.layer));
        }
        Ok(ImageRecord {
            version: VERSION,
            id,
            digest,
            other_digests: Vec::new(),
            names: entry.names().iter().map(ToString::to_string).collect(),
            created: if entry.created.is_empty() { NO_DATE.to_owned() } else { entry.created.clone() },
            manifest: text(manifest)?,
            config: text(config)?,
            layers,
        })
    }

    fn id_of(&self, entry: &ListedImage) -> Result<ImageId, OpenError> {
        ImageId::parse(&entry.id).ok_or_else(|| self.unusable(entry, "its id is not 64 hexadecimal digits"))
    }

    /// A piece of the image's big data.
    fn big_data(&self, entry: &ListedImage, key: &str) -> Result<Vec<u8>, OpenError> {
        // A key with a slash is written as base64, where a slash may be again; none of a manifest's has one.
        let file = big_data_file(key);
        if file.contains('/') {
            return Err(self.unusable(entry, &format!("its manifest names the configuration {key:?}")));
        }
        let path = format!("{}/{file}", layout::image_directory(&self.id_of(entry)?));
        self.read(&path, MAX_BYTES)?.ok_or_else(|| self.unusable(entry, &format!("{path} is missing")))
    }

    /// The image's layers that have files, base first.
    fn foreign_layers(&self, entry: &ListedImage) -> Result<Vec<LayerRecord>, OpenError> {
        let top_id = LayerId::parse(&entry.layer)
            .ok_or_else(|| self.unusable(entry, "its top layer's id is not 64 hexadecimal digits"))?;
        let directory = layout::layer_directory(&entry.layer);
        let text = |name: &str| -> Result<Option<String>, OpenError> {
            let bytes = self.read(&format!("{directory}/{name}"), MAX_LINK_BYTES)?;
            Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
        };
        let link = |text: &str| {
            Link::try_from(text.to_owned()).map_err(|error| self.unusable(entry, &format!("{directory}: {error}")))
        };
        let top = text(layout::LINK)?
            .ok_or_else(|| self.unusable(entry, &format!("{directory}/{} is missing", layout::LINK)))?;
        let mut layers = vec![self.foreign_layer(entry, top_id, link(&top)?)?];
        for below in text(layout::LOWER)?.unwrap_or_default().split(':').filter(|below| !below.is_empty()) {
            let below = link(layout::link_of_lower(below))?;
            let path = layout::link(below.as_str());
            let target = self.link_target(&path)?.unwrap_or_default();
            let id = layout::layer_of_link(&target)
                .and_then(LayerId::parse)
                .ok_or_else(|| self.unusable(entry, &format!("{path} leads to no layer")))?;
            layers.push(self.foreign_layer(entry, id, below)?);
        }
        layers.reverse();
        Ok(layers)
    }

    fn foreign_layer(&self, entry: &ListedImage, id: LayerId, link: Link) -> Result<LayerRecord, OpenError> {
        let mut layer = LayerRecord {
            diff_id: (*id).into(),
            id,
            link,
            size: 0,
            format: parallax_format::LayerFormat::Squashfs,
            squashfs_size: 0,
            squashfs_sha256: None,
            max_uid: 0,
            max_gid: 0,
            sidecar: true,
            tree: None,
            parts: Vec::new(),
        };
        let path = layer.file_path();
        let mut file = self.open_layer(&layer).map_err(|error| match error {
            OpenError::Read { cause, .. } if cause.kind() == std::io::ErrorKind::NotFound => {
                let reason = match self.unpacked(entry) {
                    Ok(Some(place)) => {
                        format!("it lies unpacked in {}, and the store has no SquashFS file of it", place.display())
                    }
                    _ => format!("{path}, its SquashFS file, is missing"),
                };
                self.unusable(entry, &reason)
            }
            other => other,
        })?;
        let failed = |cause| OpenError::Read { store: self.path().to_owned(), path: path.clone(), cause };
        let bytes = file.metadata().map_err(failed)?.len();
        let mut start = Vec::new();
        file.by_ref().take(Superblock::BYTES).read_to_end(&mut start).map_err(failed)?;
        if Superblock::parse(&start).is_none_or(|superblock| superblock.bytes_used > bytes) {
            return Err(self.unusable(entry, &format!("{path} has no SquashFS superblock that fits it")));
        }
        (layer.size, layer.squashfs_size) = (bytes, bytes);
        Ok(layer)
    }

    fn listed(&self, wanted: impl Fn(&ListedImage) -> bool) -> Result<Vec<ListedImage>, OpenError> {
        self.list(IMAGES_JSON, wanted)
    }

    /// The wanted entries of one of Podman's lists. Only they are kept: there may be very many.
    fn list<T>(&self, path: &str, wanted: impl Fn(&T) -> bool) -> Result<Vec<T>, OpenError>
    where
        T: for<'de> Deserialize<'de>,
    {
        let bytes = self.read(path, MAX_LIST_BYTES)?.unwrap_or_default();
        entries(&bytes, wanted).map_err(|error| OpenError::Foreign {
            store: self.path().to_owned(),
            image: "list".to_owned(),
            reason: format!("{path} is corrupt: {error}"),
        })
    }

    fn unusable(&self, entry: &ListedImage, reason: &str) -> OpenError {
        let image = entry.names.iter().flatten().next().map_or_else(|| entry.id.clone(), |name| format!("{name:?}"));
        OpenError::Foreign { store: self.path().to_owned(), image, reason: reason.to_owned() }
    }
}

/// The wanted entries of a JSON array, read one by one.
fn entries<T>(bytes: &[u8], wanted: impl Fn(&T) -> bool) -> serde_json::Result<Vec<T>>
where
    T: for<'de> Deserialize<'de>,
{
    use serde::de::{Deserializer as _, Error, SeqAccess, Visitor};

    struct Filter<T, F>(F, std::marker::PhantomData<T>);

    impl<'de, T: Deserialize<'de>, F: Fn(&T) -> bool> Visitor<'de> for Filter<T, F> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list")
        }

        fn visit_unit<E: Error>(self) -> Result<Vec<T>, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<T>, A::Error> {
            let mut found = Vec::new();
            while let Some(entry) = sequence.next_element()? {
                if (self.0)(&entry) {
                    found.push(entry);
                }
            }
            Ok(found)
        }
    }

    // containers/storage takes an empty file as an empty list.
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let found = deserializer.deserialize_any(Filter(wanted, std::marker::PhantomData))?;
    deserializer.end()?;
    Ok(found)
}

#[cfg(test)]
mod tests;
