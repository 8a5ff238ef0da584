//! The layers of images on this node, and their mounts.
//!
//! - [`table`]: each SquashFS file mounted once on the node.
//! - [`digest`]: the check of a layer's file against the digest recorded at migration.
//! - [`idle`]: the cache of layers that stay mounted after their last step.

pub mod digest;
pub mod idle;
pub mod table;

pub use self::table::{FileKey, LayerEntry, LayerError, LayerTable, MountedLayer};
