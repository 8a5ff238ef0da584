//! The parts of `parallax-mount-program`, Podman's `mount_program` on hosts without an agent.
//!
//! Podman starts the program for each mount, in its user and mount namespaces: `parallax-mount-program -o OPTIONS TARGET`. Layers in
//! SquashFS files are mounted with squashfuse, and an overlay is put on top; other mounts are passed to fuse-overlayfs
//! unchanged. docs/mount-program.md describes the design.
//!
//! - [`command_line`]: parser of the arguments (pure).
//! - [`options`]: parser of the `-o` string (pure).
//! - [`layer`]: kinds of lower directories, and of file systems below them.
//! - [`plan`]: the plan of the mounts (pure).
//! - [`fuse`]: programs that serve a file system.
//! - [`chunks`]: layers that a store has in chunks only.
//! - [`squashfs`]: layers from SquashFS files; [`share`]: layers that are served already.
//! - [`overlay`]: the overlay over the layers.
//! - [`mount`]: execution of the plan.
//! - [`programs`]: programs that a site may choose.
//! - [`settings`]: a site's settings; [`assignments`]: the configuration of the shell script that this program replaces.
//! - [`log`]: the log.
//! - [`mod@run`]: the order of the work.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod assignments;
mod chunks;
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
mod squashfs;

pub use run::run;
