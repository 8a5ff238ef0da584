//! The layers of images on this node, and their mounts.
//!
//! - [`mounted`]: a mounted layer.
//! - `opened`: how a layer's file is opened.
//! - [`source`]: the interface of layer sources: whatever gives a read-only directory for a layer.
//! - [`stored`]: the source for the images of stores.
//! - [`directory`]: the source for an image that is a directory of the node.
//! - [`tree`]: the directory with the contents of a metadata image's files.
//! - [`squashfs`], [`erofs`]: how the kernel makes a directory of a file in these formats.
//! - [`table`]: each file mounted once on the node.
//! - `chunked`: SquashFS files whose chunks are fetched as they are read.
//! - [`digest`]: the check of a layer's file against the digest recorded at migration.
//! - [`idle`]: the cache of layers that stay mounted after their last step.

mod chunked;
pub mod digest;
pub mod directory;
mod erofs;
mod fs_verity;
pub mod idle;
pub mod mounted;
mod opened;
pub mod source;
mod squashfs;
pub mod stored;
pub mod table;
pub mod tree;

pub use self::chunked::{KeptLayers, Swaps};
pub use self::directory::Directory;
pub use self::erofs::ReadBy;
pub use self::mounted::{FileKey, Form, LayerEntry, LayerError, MountedLayer};
pub use self::opened::{Abilities, lacks_files};
pub use self::source::{LayerSource, StepLayers};
pub use self::stored::SquashfsFiles;
pub use self::table::LayerTable;
pub use self::tree::Tree;
