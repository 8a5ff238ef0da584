//! The store of SquashFS layers on the shared file system, and the format it shares with Podman.
//!
//! - [`read`]: reading a store: as root, and for people; images that podman-hpc and the Go tool brought.
//! - [`hash`]: digests, chain ids and what is derived from them.
//! - [`podman_lists`]: Podman's lists, changed without losing what others wrote.
//! - [`Store`]: adds and removes images.
//! - [`ChunkWriter`]: publishes the chunks of layers.
//! - [`in_use`]: the files by which nodes say which images they use.
//! - [`Verifier`]: checks a store.

mod atomic;
mod error;
pub mod hash;
pub mod in_use;
mod lock;
mod parallel;
pub mod podman_lists;
pub mod read;
#[cfg(test)]
mod testing;
mod verify;
mod write;

pub use error::StoreError;
pub use lock::fcntl::has_locks;
pub use lock::work_directory::WorkDirectory;
pub use parallax_format::layer_file::{ChunkTotals, LayerFile, Shape, TarSplit};
pub use verify::{Problem, Verifier};
pub use write::chunk_garbage::ChunkGarbage;
pub use write::chunks::{ChunkWriter, NewChunks};
pub use write::garbage::Garbage;
pub use write::import::{Metadata, Unpacked};
pub use write::own_file::OwnFiles;
pub use write::remove::{Collected, Collection, Removed, Target};
pub use write::store::{NewImage, Store};
pub use write::whole_file::RemovedFiles;
