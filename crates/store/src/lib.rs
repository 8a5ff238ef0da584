//! The store of SquashFS layers on the shared file system, and the format it shares with Podman.
//!
//! - [`open`]: reading a store as root.
//! - [`record`]: what the store knows of one image, in one file.
//! - [`containers_storage`]: the files by which Podman knows a store, written for the shared store and for step stores.

pub mod containers_storage;
pub mod open;
pub mod record;
