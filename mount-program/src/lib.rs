//! What `parallax-mount-program` is made of: what Podman's `mount_program` names where there is no agent.
//!
//! Podman starts it for each mount, in its user and mount namespaces: `parallax-mount-program -o OPTIONS TARGET`. Layers that
//! lie in SquashFS files are mounted with squashfuse, and an overlay is put on top; all else goes to fuse-overlayfs as it
//! came. docs/mount-program.md tells the whole of it.
//!
//! - [`command_line`]: the arguments taken apart (pure).
//! - [`options`]: the `-o` string taken apart (pure).
//! - [`layer`]: what a lower directory is; [`shared_file_system`]: on what it lies.
//! - [`plan`]: what is to be mounted how (pure).
//! - [`fuse`]: programs that serve a file system.
//! - [`squashfs`]: layers from SquashFS files; [`share`]: those that are served already.
//! - [`overlay`]: the overlay over them.
//! - [`mount`]: carrying the plan out.
//! - [`programs`]: the programs that a site may choose.
//! - [`settings`]: what a site sets; [`assignments`]: the configuration of the script that this replaces.
//! - [`log`]: where it says what it does.
//! - [`mod@run`]: all of it in order.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod assignments;
mod command_line;
mod fuse;
mod layer;
mod log;
mod mount;
pub mod options;
mod overlay;
mod plan;
mod programs;
mod run;
mod settings;
mod share;
mod shared_file_system;
mod squashfs;

pub use run::run;
