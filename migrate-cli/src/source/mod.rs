//! Reads images through skopeo's image proxy, and layers that lie in a directory from there.
//!
//! The proxy's crate is asynchronous; this module confines that: what it gives out blocks. Several threads may read
//! blobs of one image at once.

mod blob;
mod local;
mod reference;

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr as _;

use anyhow::{Context as _, bail, ensure};
use containers_image_proxy::oci_spec::image::Digest;
use containers_image_proxy::{ConvertedLayerInfo, Error, ImageProxy, ImageProxyConfig, OpenedImage};
use parallax_store::containers_storage::sha256_hex;
use tokio::runtime::Runtime;

use blob::Blob;
pub use reference::{Reference, Transport};

use crate::image::{Descriptor, Image, Index, Layer, Manifest, hex_of};

/// How a registry is reached.
#[derive(Debug, Clone)]
pub struct Access {
    /// The file with the user's credentials, if not the usual one.
    pub authfile: Option<PathBuf>,
    /// Whether the registry's certificate is checked.
    pub tls_verify: bool,
}

/// An open image of a source.
#[derive(Debug)]
pub struct Source {
    proxy: ImageProxy,
    image: OpenedImage,
    reference: Reference,
    access: Access,
    /// What Podman's storage has of each layer: it keeps them uncompressed, whatever the manifest says.
    layers: Option<Vec<ConvertedLayerInfo>>,
    /// Last, because it waits for skopeo's end when it is dropped, and skopeo ends when the proxy is dropped.
    runtime: Runtime,
}

/// A rootless user's storage is mounted in the user namespace that Podman makes. `skopeo copy` enters it by itself, skopeo's
/// image proxy (1.18) does not.
fn in_podmans_namespace() -> Command {
    let mut command = Command::new("podman");
    command.args(["unshare", "skopeo"]);
    command
}

impl Source {
    /// Opens an image.
    ///
    /// # Errors
    /// If skopeo is missing, too old, or cannot open it.
    pub fn open(reference: Reference, access: Access) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().context("no runtime for skopeo")?;
        let mut config = ImageProxyConfig::default();
        config.authfile.clone_from(&access.authfile);
        config.insecure_skip_tls_verification = Some(!access.tls_verify);
        if reference.transport == Transport::ContainersStorage && !rustix::process::geteuid().is_root() {
            config.skopeo_cmd = Some(in_podmans_namespace());
        }
        let (proxy, image, layers) = runtime.block_on(async {
            let proxy = ImageProxy::new_with_config(config).await.map_err(skopeo_error)?;
            let image = proxy.open_image(&reference.text).await.map_err(skopeo_error)?;
            let layers = match reference.transport {
                Transport::ContainersStorage => proxy.get_layer_info(&image).await.map_err(skopeo_error)?,
                _ => None,
            };
            anyhow::Ok((proxy, image, layers))
        })?;
        Ok(Self { proxy, image, reference, access, layers, runtime })
    }

    /// Reads the image's manifest and configuration.
    ///
    /// # Errors
    /// If the source fails, or what it has does not match its digests.
    pub fn image(&self) -> anyhow::Result<Image> {
        let fetched = self.runtime.block_on(self.proxy.fetch_manifest_raw_oci(&self.image)).map_err(skopeo_error);
        let (digest, manifest) = fetched.context("the manifest cannot be read")?;
        let (manifest, index_digest) = self.original(&digest, manifest)?;
        let config = Manifest::parse(&manifest)?.config;
        let config = self.small_blob(&config).context("the configuration cannot be read")?;
        Image::new(digest, manifest, index_digest, config)
    }

    /// The manifest as the source has it, and the digest of the index it was chosen from.
    ///
    /// The proxy turns Docker's manifests into OCI's and hides indexes, so `skopeo inspect` is asked for what it hides.
    fn original(&self, digest: &str, manifest: Vec<u8>) -> anyhow::Result<(Vec<u8>, Option<String>)> {
        let is_original = hex_of(digest).is_some_and(|hex| hex == sha256_hex(&manifest));
        let may_have_index = matches!(self.reference.transport, Transport::Registry | Transport::Oci);
        if is_original && !may_have_index {
            return Ok((manifest, None));
        }
        let top = self.inspect(&self.reference.text)?;
        let top_hex = sha256_hex(&top);
        if hex_of(digest) == Some(&top_hex) {
            return Ok((top, None));
        }
        let index: Option<Index> = serde_json::from_slice(&top).ok();
        ensure!(
            index.is_some_and(|index| index.manifests.iter().any(|entry| entry.digest == digest)),
            "{} changed while it was read; try again",
            self.reference.text
        );
        if is_original {
            return Ok((manifest, Some(top_hex)));
        }
        let Some(one) = self.reference.with_digest(digest) else {
            bail!("{} holds an index of Docker images, which only a registry can give", self.reference.text);
        };
        Ok((self.inspect(&one)?, Some(top_hex)))
    }

    fn inspect(&self, reference: &str) -> anyhow::Result<Vec<u8>> {
        let mut command = Command::new("skopeo");
        command.args(["inspect", "--raw"]);
        if let Some(file) = &self.access.authfile {
            command.arg("--authfile").arg(file);
        }
        if !self.access.tls_verify {
            command.arg("--tls-verify=false");
        }
        let output = command.arg(reference).output().context("skopeo cannot be run")?;
        ensure!(
            output.status.success(),
            "the manifest cannot be read: skopeo inspect: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(output.stdout)
    }

    fn small_blob(&self, descriptor: &Descriptor) -> anyhow::Result<Vec<u8>> {
        /// The limit of registries for configurations.
        const MOST: u64 = 4 << 20;
        ensure!(descriptor.size <= MOST, "it has {} bytes, more than the 4 MiB a registry takes", descriptor.size);
        let mut content = Vec::new();
        self.blob(&descriptor.digest, Some(descriptor.size))?.take(MOST).read_to_end(&mut content)?;
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
        let size = self.layers.as_ref().and_then(|layers| layers.get(index)).map(|info| info.size);
        self.blob(&format!("sha256:{}", layer.diff_id), size).map(LayerStream::Proxy)
    }

    fn blob(&self, digest: &str, size: Option<u64>) -> anyhow::Result<Blob<'_>> {
        let parsed = Digest::from_str(digest).with_context(|| format!("the digest {digest:?} cannot be used"))?;
        let stream = self.runtime.block_on(self.proxy.get_blob_stream(&self.image, &parsed, size.unwrap_or(0)));
        let stream = stream.map_err(skopeo_error).with_context(|| format!("the blob {digest} cannot be read"))?;
        Ok(Blob::new(&self.runtime, stream, size))
    }
}

/// A layer's bytes as the source has them.
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

/// What went wrong, without the names of the proxy's methods.
fn skopeo_error(error: Error) -> anyhow::Error {
    match error {
        Error::SkopeoSpawnError(error) => anyhow::anyhow!("skopeo cannot be run: {error}; install skopeo 1.9 or newer"),
        Error::ProxyTooOld { .. } => anyhow::anyhow!("skopeo is too old; install skopeo 1.9 or newer"),
        Error::RequestInitiationFailure { error, .. } | Error::RetryableRequestFailure { error, .. } => {
            anyhow::anyhow!("{error}")
        }
        other => other.into(),
    }
}
