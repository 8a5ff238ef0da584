//! Chunks in an ordinary registry: in blobs beside the image, read by Range requests.

mod authorization;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use parallax_chunks::{ChunkId, Index};
use parallax_format::chunk_artifact::{ChunkArtifact, layer_tag};
use parallax_format::digest::{Digest, Sha256};
use parallax_format::name::{DEFAULT_REGISTRY, DEFAULT_REGISTRY_HOST};
use parallax_format::oci::MANIFEST_TYPE;
use sha2::Digest as _;

use self::authorization::Authorization;
use super::http::{Answer, Client, HttpOptions};
use super::settings::SettingsError;
use super::{Source, SourceError};

/// The scheme of these chunk stores.
pub(crate) const SCHEME: &str = "docker://";
/// Maximum size of a manifest in bytes, as registries have it.
const MAX_MANIFEST: usize = 4 << 20;
/// Maximum size of an index in bytes: that of a file of 100 GB.
const MAX_INDEX: usize = 64 << 20;
/// Maximum number of layers whose indexes are kept.
const MAX_LAYERS: usize = 256;
/// How long a layer that the registry lacks is not looked up again.
const MISSING_INTERVAL: Duration = Duration::from_secs(60);
/// The same after another failure: whoever waited for the answer does not ask one after another.
const FAILURE_INTERVAL: Duration = Duration::from_millis(200);

/// Settings of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RegistryOptions {
    /// File with the credentials, in the format of `podman login`.
    pub(crate) credentials: Option<PathBuf>,
    /// Registries that are asked without TLS: `HOST[:PORT]`.
    pub(crate) insecure: Vec<String>,
}

/// The chunks of a repository, such as `docker://registry.site/org/app`.
#[derive(Debug)]
pub(crate) struct RegistrySource {
    name: String,
    client: Client,
    /// URL of the repository.
    base: String,
    authorization: Authorization,
    layers: Mutex<HashMap<Sha256, Arc<Mutex<Layer>>>>,
    /// Whether the registry answers Range requests with the whole blob.
    without_ranges: AtomicBool,
}

/// A layer, as the registry has it.
#[derive(Debug, Default)]
enum Layer {
    /// Not asked yet.
    #[default]
    Unknown,
    /// Not returned at that time; the reason.
    Failed(Instant, SourceError),
    /// Its chunks.
    Found(Arc<Blob>),
}

/// A blob with chunks.
#[derive(Debug)]
struct Blob {
    digest: Digest,
    /// Offset and size of the chunks' files.
    places: HashMap<ChunkId, (u64, u64)>,
}

impl RegistrySource {
    /// Returns the source. The registry is not asked yet.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub(crate) fn new(url: &str, options: &RegistryOptions, http: &HttpOptions) -> Result<Self, SettingsError> {
        let url = url.trim_end_matches('/');
        let invalid = || SettingsError::Repository(url.to_owned());
        let (registry, repository) =
            url.strip_prefix(SCHEME).and_then(|rest| rest.split_once('/')).ok_or_else(invalid)?;
        if !is_host(registry) || !is_repository(repository) {
            return Err(invalid());
        }
        let insecure = options.insecure.iter().any(|name| name == registry);
        let scheme = if insecure { "http" } else { "https" };
        let host = if registry == DEFAULT_REGISTRY { DEFAULT_REGISTRY_HOST } else { registry };
        let authorization = Authorization::new(options.credentials.clone(), registry, repository, insecure);
        authorization.credentials().map_err(SettingsError::Credentials)?;
        Ok(Self {
            name: url.to_owned(),
            client: Client::new(http)?,
            base: format!("{scheme}://{host}/v2/{repository}"),
            authorization,
            layers: Mutex::default(),
            without_ranges: AtomicBool::new(false),
        })
    }

    fn get(&self, path: &str, good: u16, max: usize, headers: &[(&str, &str)]) -> Result<Answer, SourceError> {
        self.authorization.get(&self.client, &format!("{}/{path}", self.base), good, max, headers)
    }

    /// Returns the blob with the chunks of a layer.
    fn blob(&self, layer: &Sha256) -> Result<Arc<Blob>, SourceError> {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        if layers.len() >= MAX_LAYERS && !layers.contains_key(layer) {
            layers.clear();
        }
        let known = Arc::clone(layers.entry(*layer).or_default());
        drop(layers);
        // Others who need the same layer wait meanwhile.
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Layer::Found(blob) => return Ok(Arc::clone(blob)),
            Layer::Failed(since, reason) if since.elapsed() < interval(reason) => return Err(reason.clone()),
            _ => {}
        }
        match self.look_up(layer) {
            Ok(blob) => {
                let blob = Arc::new(blob);
                *known = Layer::Found(Arc::clone(&blob));
                Ok(blob)
            }
            Err(reason) => {
                *known = Layer::Failed(Instant::now(), reason.clone());
                Err(reason)
            }
        }
    }

    fn look_up(&self, layer: &Sha256) -> Result<Blob, SourceError> {
        let path = format!("manifests/{}", layer_tag(layer));
        let manifest = checked(self.get(&path, 200, MAX_MANIFEST, &[("accept", MANIFEST_TYPE)])?)?;
        let corrupt =
            |reason: &str| SourceError::Permanent(format!("the layer's chunks in the registry are invalid: {reason}"));
        let artifact = ChunkArtifact::parse(&manifest).ok_or_else(|| corrupt("not an artifact with chunks"))?;
        let blobs = artifact.blobs_of(layer).ok_or_else(|| corrupt("the artifact does not have the layer"))?;
        let (digest, _) = blobs.index;
        let bytes = checked(self.get(&format!("blobs/{digest}"), 200, MAX_INDEX, &[])?)?;
        let sha256: [u8; 32] = sha2::Sha256::digest(&bytes).into();
        if Digest::from(Sha256::from(sha256)) != digest {
            return Err(SourceError::Temporary(
                "the index of the layer's chunks in the registry is corrupt".to_owned(),
            ));
        }
        let index = Index::parse(&bytes).map_err(|error| corrupt(&error.to_string()))?;
        let places = index.parts().map(|part| (part.id, (part.offset, part.size))).collect();
        Ok(Blob { digest: blobs.chunks.0, places })
    }

    /// Has a layer looked up again.
    fn forget(&self, layer: &Sha256) {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).remove(layer);
    }
}

/// Returns how long a layer is not looked up again.
fn interval(reason: &SourceError) -> Duration {
    if *reason == SourceError::NotFound { MISSING_INTERVAL } else { FAILURE_INTERVAL }
}

/// Returns the body of an answer that is good.
fn checked(answer: Answer) -> Result<Vec<u8>, SourceError> {
    if answer.is_good { Ok(answer.body) } else { Err(answer.error()) }
}

impl Source for RegistrySource {
    fn file(&self, layer: &Sha256, id: &ChunkId, max: usize) -> Result<Vec<u8>, SourceError> {
        let no_ranges = || {
            let reason = "the registry does not support Range requests, so its chunks are not used";
            SourceError::Permanent(reason.to_owned())
        };
        if self.without_ranges.load(Ordering::Relaxed) {
            return Err(no_ranges());
        }
        let blob = self.blob(layer)?;
        let (offset, size) = *blob.places.get(id).ok_or(SourceError::NotFound)?;
        if size > max as u64 {
            return Err(SourceError::Permanent("the chunk's file is too large".to_owned()));
        }
        let range = format!("bytes={offset}-{}", offset + size - 1);
        let answer = self.get(&format!("blobs/{}", blob.digest), 206, max, &[("range", &range)])?;
        match answer.status {
            206 if answer.body.len() as u64 == size => Ok(answer.body),
            206 => Err(SourceError::Temporary("the registry returned another number of bytes than asked".to_owned())),
            200 => {
                self.without_ranges.store(true, Ordering::Relaxed);
                Err(no_ranges())
            }
            404 | 410 | 416 => {
                // The layer was pushed again, or its chunks were removed.
                self.forget(layer);
                Err(SourceError::NotFound)
            }
            _ => Err(answer.error()),
        }
    }

    fn name(&self) -> &str {
        &self.name
    }
}

fn is_host(name: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    !name.is_empty() && name.bytes().all(is_good)
}

fn is_repository(name: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
    let is_part =
        |part: &str| part.starts_with(|first: char| first.is_ascii_alphanumeric()) && part.bytes().all(is_good);
    name.split('/').all(is_part)
}

#[cfg(test)]
mod tests;
