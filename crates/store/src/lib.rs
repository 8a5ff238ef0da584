//! The store of SquashFS layers on the shared file system, and the format it shares with Podman.
//!
//! - [`open`]: reading a store as root.
//! - [`record`]: what the store knows of one image, in one file.
//! - [`containers_storage`]: the files by which Podman knows a store, written for the shared store and for step stores.
//! - [`Store`]: adds images.
//! - [`reader`]: lists them.

pub mod containers_storage;
mod files;
mod layer_file;
mod lists;
mod lock;
pub mod open;
pub mod reader;
pub mod record;
mod writer;

pub use files::StoreError;
pub use layer_file::LayerFile;
pub use writer::{NewImage, Store, WorkDirectory};
