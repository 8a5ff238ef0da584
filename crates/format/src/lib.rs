//! Facts that several components share: image names, digests, the layout of a store, and the formats of its files.
//!
//! The command writes a store with these paths and formats, and the plugin, the agent and the mount program read it with
//! them, so they all depend on this crate and on nothing else of each other. Nothing here touches a file.
//!
//! - [`name`]: the grammar of image names; where registry, tag and digest of a name begin.
//! - [`ImageRef`]: what a user may write to mean an image.
//! - [`device`]: names of devices.
//! - [`digest`]: SHA-256 digests and ids.
//! - [`Pin`]: an image that is bound to a job.
//! - [`is_container_name`]: the grammar of names of containers.
//! - [`RequestedImage`]: what a user may write to mean a path, or an image of a store.
//! - [`layout`]: every path in a store; [`ducc`]: paths in a repository of unpacked images; [`enroot`]: what that tool's images have in them.
//! - [`LayerFormat`]: the formats of layers' files; [`layer_file`]: the description of such a file.
//! - [`record`]: the record of one image.
//! - [`oci`]: manifests, indexes and configurations of images.
//! - [`podman`]: the files by which Podman knows a store.
//! - [`squashfs`], [`erofs`]: what is read of SquashFS and EROFS files.

pub mod chunk_artifact;
mod container_name;
mod correct;
pub mod device;
pub mod digest;
pub mod ducc;
pub mod enroot;
pub mod erofs;
mod index;
pub mod layer_file;
mod layer_format;
pub mod layout;
pub mod name;
mod nearest;
pub mod oci;
mod pin;
pub mod podman;
pub mod record;
mod reference;
mod requested;
pub mod squashfs;

pub use container_name::{ContainerRule, is_container_name, parse_container};
pub use correct::is_squashfs_name;
pub use index::{IndexPath, name_from_index_entry};
pub use layer_format::LayerFormat;
pub use name::{ImageName, NameError};
pub use nearest::{ambiguous_id, nearest, nearest_word, unknown_image};
pub use pin::Pin;
pub use reference::{ImageRef, id_prefix};
pub use requested::{RequestedImage, from_anywhere, image_of_container, is_relative_path};
