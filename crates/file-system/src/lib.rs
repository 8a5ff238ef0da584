//! The kind of file system below a path, and what can be done there.
//!
//! - [`kind`]: the kinds, by the type of a mount and by the number of `statfs(2)` (pure).
//! - [`mounts`]: the lines of `/proc/self/mountinfo` (pure).
//! - [`found`]: the file system of a path of this machine.
//! - [`scratch`]: directories for the writable layers of steps.

mod found;
mod kind;
mod mounts;
pub mod scratch;

pub use found::FileSystem;
pub use kind::{Can, Kind, Place};
pub use mounts::Mount;
