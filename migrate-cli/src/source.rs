//! Reading of images through skopeo's image proxy, and of layers in a directory from their files.
//!
//! The proxy's crate is asynchronous; the interface of this module is blocking. Several threads may read
//! blobs of one image at once.

mod access;
mod blob;
mod local;
mod local_name;
mod own_names;
mod push;
mod reference;
pub mod registries;
pub mod short_name;
mod skopeo;
mod storage;

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::str::FromStr as _;

use anyhow::{Context as _, bail, ensure};
use containers_image_proxy::oci_spec::image::Digest;
use containers_image_proxy::{ConvertedLayerInfo, ImageProxy, OpenedImage};
use parallax_format::digest;
use parallax_format::oci::{Descriptor, Index, IndexEntry, Platform};
use parallax_store::hash::sha256;
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub use access::Access;
use blob::Blob;
pub use local_name::{LocalImage, qualified as qualified_names};
pub use own_names::{own_names, several};
pub(crate) use push::Repository;
pub use reference::{Reference, Transport};
use skopeo::{inspect, proxy_config, skopeo_error};

use crate::image::{Image, Layer, parse_manifest};

/// An open image of a source.
#[derive(Debug)]
pub struct Source {
    proxy: ImageProxy,
    image: OpenedImage,
    reference: Reference,
    access: Access,
    /// Layers in Podman's storage, which are uncompressed even if the manifest says otherwise.
    layers: Option<Vec<ConvertedLayerInfo>>,
    /// Last but for the directory, because it waits for skopeo's end when it is dropped, and skopeo ends when the proxy is
    /// dropped.
    runtime: Runtime,
    /// The run root for a storage other than the user's own.
    _run_root: Option<TempDir>,
}

/// Returns the sources that `text` may stand for, most likely first: one source, or, for a name without a registry, those that
/// Podman would try. Asks the user where Podman does, if standard input and error are a terminal and `may_ask`.
///
/// # Errors
/// If `text` is invalid.
pub fn candidates(text: &str, may_ask: bool) -> anyhow::Result<Vec<Reference>> {
    if let Some(reference) = Reference::parse(text)? {
        return Ok(vec![reference]);
    }
    let ask = |text: &str, names: &[String]| short_name::choose(text, names, io::stderr(), io::stdin().lock());
    let somebody = may_ask && io::stdin().is_terminal() && io::stderr().is_terminal();
    let ask: Option<short_name::Ask<'_>> = if somebody { Some(&ask) } else { None };
    let names = short_name::candidates(text, &registries::Registries::load()?, ask)?;
    names.iter().map(|name| Ok(Reference::registry(name))).collect()
}

/// Finds the image of a Podman storage that a source means, by Podman's rules for local images: short names, ids and digests.
/// Sources of another kind, and images that are not in the storage's list, are left to skopeo.
///
/// # Errors
/// The source is an invalid name or id, or the configuration of short names cannot be read.
pub fn look_up_local(reference: &Reference, access: &Access) -> anyhow::Result<Option<LocalImage>> {
    match reference.transport {
        Transport::ContainersStorage => storage::look_up(reference, access),
        _ => Ok(None),
    }
}

impl Source {
    /// Opens the first of these that exists, and returns it. `try_next` is called for each that follows a failure.
    ///
    /// # Errors
    /// If none can be opened: the reason for each.
    pub fn open_first(
        candidates: Vec<Reference>,
        access: &Access,
        mut try_next: impl FnMut(&Reference),
    ) -> anyhow::Result<(Self, Reference)> {
        let mut failures = Vec::new();
        for reference in candidates {
            if !failures.is_empty() {
                try_next(&reference);
            }
            match Self::open(reference.clone(), access.clone()) {
                Ok(source) => return Ok((source, reference)),
                Err(error) => failures.push((reference, error)),
            }
        }
        if failures.len() > 1 {
            let each: Vec<String> =
                failures.iter().map(|(reference, error)| format!("{}: {error:#}", reference.text)).collect();
            bail!("image not found in the searched registries: {}", each.join("; "));
        }
        Err(failures.pop().map_or_else(|| anyhow::anyhow!("there is nothing to open"), |(_, error)| error))
    }

    /// Opens an image.
    ///
    /// # Errors
    /// If skopeo is missing, too old, or cannot open it.
    pub fn open(mut reference: Reference, access: Access) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .context("cannot start a runtime for skopeo")?;
        let mut run_root = None;
        if let (Transport::ContainersStorage, Some(root)) = (reference.transport, &access.podman_root) {
            let directory = TempDir::new().context("cannot make a temporary directory")?;
            reference.move_to_storage(root, directory.path())?;
            run_root = Some(directory);
        }
        let opened = runtime.block_on(async {
            let proxy = ImageProxy::new_with_config(proxy_config(&reference, &access)).await.map_err(skopeo_error)?;
            let image = proxy.open_image(&reference.text).await.map_err(skopeo_error)?;
            let layers = match reference.transport {
                Transport::ContainersStorage => proxy.get_layer_info(&image).await.map_err(skopeo_error)?,
                _ => None,
            };
            anyhow::Ok((proxy, image, layers))
        });
        let (proxy, image, layers) = opened.map_err(|error| with_platforms(error, &reference, &access))?;
        Ok(Self { proxy, image, reference, access, layers, runtime, _run_root: run_root })
    }

    /// Reads the image's manifest and configuration.
    ///
    /// # Errors
    /// If the source fails, or its content does not match the digests.
    pub fn image(&self) -> anyhow::Result<Image> {
        let fetched = self.runtime.block_on(self.proxy.fetch_manifest_raw_oci(&self.image)).map_err(skopeo_error);
        let fetched = fetched.map_err(|error| with_platforms(error, &self.reference, &self.access));
        let (digest, manifest) = fetched.context("cannot read the manifest")?;
        let (manifest, index_digest) = self.original(&digest, manifest)?;
        let config = parse_manifest(&manifest)?.config;
        let config = self.small_blob(&config).context("cannot read the configuration")?;
        let mut image = Image::new(&digest, manifest, index_digest.into_iter().collect(), config)?;
        if self.reference.transport == Transport::ContainersStorage {
            image.other_digests.extend(storage::other_digests(&self.reference, &image));
        }
        self.check_platform(&mut image)?;
        Ok(image)
    }

    /// Checks the platform: an image without an index is not selected by platform, so it may be for the wrong one.
    fn check_platform(&self, image: &mut Image) -> anyhow::Result<()> {
        let Some(found) = &image.platform else { return Ok(()) };
        match &self.access.platform {
            Some(wanted) => {
                ensure!(wanted.takes(found), "the image is for {found}, not for {wanted}, and for no other");
            }
            None if !Platform::of_this_machine().takes(found) => {
                image.warnings.push(format!("the image is for {found}, not for this machine"));
            }
            None => {}
        }
        Ok(())
    }

    /// Returns the source's original manifest, and the digest of the index it was selected from.
    ///
    /// The proxy converts Docker's manifests into OCI's and hides indexes, so they are read from the files, or by
    /// `skopeo inspect`.
    fn original(&self, digest: &str, manifest: Vec<u8>) -> anyhow::Result<(Vec<u8>, Option<digest::Digest>)> {
        let parsed = digest::Digest::parse(digest);
        let is_original = parsed == Some(sha256(&manifest).into());
        let may_have_index = self.reference.transport != Transport::DockerArchive;
        if is_original && !may_have_index {
            return Ok((manifest, None));
        }
        let top = match local::top(&self.reference) {
            Some(top) => top,
            None => inspect(&self.reference.text, &self.reference, &self.access)?,
        };
        let top_digest = digest::Digest::from(sha256(&top));
        if parsed == Some(top_digest) {
            return Ok((top, None));
        }
        let index: Option<Index> = serde_json::from_slice(&top).ok();
        let entry = index.and_then(|index| index.manifests.into_iter().find(|entry| entry.digest == digest));
        let Some(entry) = entry else {
            // Podman's storage may convert a manifest: the converted one counts.
            ensure!(
                is_original && self.reference.transport == Transport::ContainersStorage,
                "{} changed while it was read; try again",
                self.reference.text
            );
            return Ok((manifest, None));
        };
        let manifest = if is_original { manifest } else { self.manifest_of_index(&entry)? };
        Ok((manifest, Some(top_digest)))
    }

    /// Returns the manifest of one image of an index, byte for byte.
    fn manifest_of_index(&self, entry: &IndexEntry) -> anyhow::Result<Vec<u8>> {
        if let Some(manifest) = local::manifest(&self.reference, &entry.digest) {
            return Ok(manifest);
        }
        match self.reference.with_digest(&entry.digest) {
            Some(one) => inspect(&one, &self.reference, &self.access),
            // To an OCI layout a manifest is a blob like any other.
            None => self.small_blob(&Descriptor { media_type: None, digest: entry.digest.clone(), size: entry.size }),
        }
    }

    fn small_blob(&self, descriptor: &Descriptor) -> anyhow::Result<Vec<u8>> {
        /// The limit of registries for configurations.
        const MAX_BYTES: u64 = 4 << 20;
        ensure!(
            descriptor.size <= MAX_BYTES,
            "its size of {} bytes exceeds the limit of registries, 4 MiB",
            descriptor.size
        );
        let mut content = Vec::new();
        self.blob(&descriptor.digest, Some(descriptor.size))?.take(MAX_BYTES).read_to_end(&mut content)?;
        Ok(content)
    }

    /// Opens layer `index` of the image. Its bytes may be compressed or not.
    ///
    /// # Errors
    /// If the source does not have it.
    pub fn layer(&self, index: usize, layer: &Layer) -> anyhow::Result<LayerStream<'_>> {
        if let Some(file) = local::open(&self.reference, &layer.blob) {
            return Ok(LayerStream::File(file));
        }
        if self.reference.transport != Transport::ContainersStorage {
            return self.blob(&layer.blob.digest, Some(layer.blob.size)).map(LayerStream::Proxy);
        }
        // Podman's storage finds layers by their diffID. skopeo before 1.14 does not tell their sizes.
        let size = self.stored_size(index);
        self.blob(&digest::Digest::from(layer.diff_id).to_string(), size).map(LayerStream::Proxy)
    }

    /// Returns the number of bytes of [`Self::layer`], if known.
    pub fn layer_size(&self, index: usize, layer: &Layer) -> u64 {
        self.stored_size(index).unwrap_or(layer.blob.size)
    }

    fn stored_size(&self, index: usize) -> Option<u64> {
        self.layers.as_ref().and_then(|layers| layers.get(index)).map(|info| info.size)
    }

    fn blob(&self, digest: &str, size: Option<u64>) -> anyhow::Result<Blob<'_>> {
        let parsed = Digest::from_str(digest).with_context(|| format!("invalid digest {digest:?}"))?;
        let stream = self.runtime.block_on(self.proxy.get_blob_stream(&self.image, &parsed, size.unwrap_or(0)));
        let stream = stream.map_err(skopeo_error).with_context(|| format!("cannot read the blob {digest}"))?;
        Ok(Blob::new(&self.runtime, stream, size))
    }
}

/// A layer's original bytes.
#[derive(Debug)]
pub enum LayerStream<'a> {
    /// From a file.
    File(File),
    /// From skopeo.
    Proxy(Blob<'a>),
}

impl Read for LayerStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buffer),
            Self::Proxy(blob) => blob.read(buffer),
        }
    }
}

/// Adds the available platforms to skopeo's error about a missing platform.
fn with_platforms(error: anyhow::Error, reference: &Reference, access: &Access) -> anyhow::Error {
    if !format!("{error:#}").contains("no image found in") {
        return error;
    }
    let top = inspect(&reference.text, reference, access).ok();
    let index: Option<Index> = top.and_then(|top| serde_json::from_slice(&top).ok());
    let platforms: Vec<String> = index
        .into_iter()
        .flat_map(|index| index.manifests)
        .filter_map(|entry| entry.platform)
        .map(|platform| platform.to_string())
        .collect();
    let wanted = access.platform.clone().unwrap_or_else(Platform::of_this_machine);
    anyhow::anyhow!(
        "it has no image for the platform {wanted}; select another one with --platform: {}",
        platforms.join(", ")
    )
}
