//! The backend that mounts the layers of an image for a step: the kernel (`native`) or the mount program (`fuse`).
//!
//! - [`choice`]: the backend for the images of a store.
//! - [`retry`]: when the node's abilities are tried again.
//! - [`trusted_owners`]: the owners whose stores the kernel may read.

pub mod choice;
pub mod retry;
pub mod trusted_owners;

pub use self::choice::{Backend, Backends, Chosen};
pub use self::retry::Retry;
