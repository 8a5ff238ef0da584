//! What `parallax-lazy` tells of itself.

use parallax_format::digest::Sha256;
use serde::{Deserialize, Serialize};

/// Maximum number of layers in a status, which must fit into a message.
pub const MAX_LAYERS: usize = 64;

/// The state of `parallax-lazy`. Future versions only add fields.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its version.
    pub version: String,
    /// The cache.
    pub cache: CacheStatus,
    /// The reads.
    #[serde(default)]
    pub reads: ReadStatus,
    /// The layers that are served by FUSE, at most [`MAX_LAYERS`]. A layer that is complete is served by the kernel, and no longer here.
    pub layers: Vec<LayerStatus>,
    /// The configured chunk stores and those beside indexes, in the order in which they are asked.
    pub sources: Vec<SourceStatus>,
    /// Why no layer is served: the configured chunk stores cannot be used.
    #[serde(default)]
    pub error: Option<String>,
}

/// The state of the cache.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CacheStatus {
    /// Size of what is cached in bytes.
    pub used: u64,
    /// Maximum size in bytes.
    pub limit: u64,
    /// Number of chunks that another layer of the cache had.
    pub shared_chunks: u64,
}

/// The reads of layers since `parallax-lazy` started.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReadStatus {
    /// Number of reads for which the cache had all chunks.
    pub cached: u64,
    /// Number of reads for which chunks had to be fetched.
    pub fetched: u64,
    /// Number of chunks that are being fetched, by readers or ahead of them.
    pub chunks_in_progress: u64,
}

/// The state of a layer that is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerStatus {
    /// SHA-256 of its file.
    pub sha256: Sha256,
    /// Size of its file in bytes.
    pub size: u64,
    /// Size of what is there, in bytes.
    pub there: u64,
    /// Whether readers wait for a chunk that cannot be had.
    pub waits: bool,
    /// The reason why a reader got an error, if one did.
    pub failed: Option<String>,
}

/// What came from a chunk store since `parallax-lazy` started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Its URL or directory.
    pub name: String,
    /// Number of chunks.
    pub chunks: u64,
    /// Size of their files in bytes.
    pub bytes: u64,
    /// Number of chunks that it did not return, or not as their ids say.
    pub failures: u64,
    /// The reason of the last failure.
    #[serde(default)]
    pub reason: Option<String>,
}
