//! The store of SquashFS layers on the shared file system, and the format it shares with Podman.
//!
//! - [`open`]: reading a store as root.
//! - [`record`]: what the store knows of one image, in one file.
//! - [`containers_storage`]: the files by which Podman knows a store, written for the shared store and for step stores.
//! - [`foreign`]: images that podman-hpc and the Go tool brought.
//! - [`lists`]: Podman's lists, changed without losing what others wrote.
//! - [`tar_split`]: how Podman gives back the archives of layers.
//! - [`Store`]: adds and removes images.
//! - [`reader`]: lists them.
//! - [`Verifier`]: checks them.

mod access;
mod adopt;
pub mod containers_storage;
mod files;
pub mod foreign;
pub mod holds;
mod id_prefix;
pub mod lists;
mod lock;
mod lock_file;
mod mark;
pub mod open;
mod own_file;
mod parallel;
mod publish;
pub mod reader;
pub mod record;
mod remove;
mod removed;
pub mod tar_split;
#[cfg(test)]
mod testing;
mod verify;
mod waste;
mod work;
mod writer;

pub use files::StoreError;
pub use lock::has_locks;
pub use own_file::OwnFiles;
pub use parallax_format::layer_file::{LayerFile, Shape, TarSplit};
pub use remove::{Collected, Collection, Removed, Target};
pub use verify::{Problem, Verifier};
pub use waste::Garbage;
pub use work::WorkDirectory;
pub use writer::{NewImage, Store};
