//! Environment definition files (EDF): TOML files in which users of the Container Engine describe an image, mounts and variables.
//!
//! An EDF is read where the user submits a job, by srun, sbatch and salloc, and by `parallax edf`. Nodes get the finished form, a
//! [`parallax_request::Request`]: a user's home may be unreadable there.
//!
//! - [`Locations`]: where a name is looked up.
//! - [`Sources`]: what is read: files and variables. [`Host`] reads those of this machine; all else is without I/O.
//! - [`render`]: reads a file and its bases, merges them, and expands variables.
//! - [`Environment`]: the result, with [`Rendered::request`] as what nodes get.
//!
//! The format follows the documentation of the Container Engine; `docs/users.md` has the keys.

mod environment;
mod error;
mod expand;
mod file;
mod find;
mod host;
mod merge;
mod mount;
mod place;
mod request;
mod sources;
#[cfg(test)]
mod tests;

pub use environment::{Environment, Rendered};
pub use error::{EdfError, Warning};
pub use find::Locations;
pub use host::Host;
pub use merge::{MAX_BYTES, MAX_LEVELS, render};
pub use mount::{EdfMount, MountFlag};
pub use place::Place;
pub use sources::Sources;
