//! OCI hooks: programs that prepare a container for what is in it, and the files by which an administrator says when which runs.
//!
//! - [`Hook`], [`Stage`]: a hook, and the points of a container's life for which there are hooks (OCI runtime specification).
//! - [`HookFile`]: a file of a `hooks.d` directory (schema 1.0.0, `oci-hooks(5)` of Podman), and which containers it is for.
//! - [`Container`]: what hooks are told of the container: its state and its `config.json`.
//! - [`read_directory`]: the files of a directory of the administrator's; [`read_hooks`]: the hooks of several. The only parts that read
//!   anything.

mod container;
mod directory;
mod file;
mod files;
mod hook;

pub use container::{BundleMount, Container};
pub use directory::{AdministratorFile, ReadError, read_directory};
pub use file::{HookFile, HookFileError};
pub use files::{Unusable, read_hooks};
pub use hook::{Hook, HookError, Stage, StagedHook};
