//! What more than one component must know the same of: image names, digests, and where a store keeps what.
//!
//! The command writes a store's index with these paths, and the plugin and the agent read it with them, so they
//! all depend on this crate and on nothing else of each other. Nothing here touches a file.

mod correct;
pub mod digest;
mod index;
pub mod layout;
pub mod name;
mod nearest;
pub mod squashfs;

pub use index::{IndexPath, name_from_index_entry};
pub use name::{ImageName, ImageRef, NameError, id_prefix};
pub use nearest::{ambiguous_id, nearest, unknown_image};
