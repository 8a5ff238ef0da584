//! The abilities of this machine that Parallax needs, found by trials, never by the kernel's version.
//!
//! The trials mount a tiny SquashFS image (module `image`) in the very ways in which steps get their layers. They run in processes
//! of their own: the program that asks starts itself again ([`run_if_asked`]), that process makes a mount and a PID namespace, and
//! the process in it that makes the trials is the first there. When it ends, or is ended because it takes too long, every mount,
//! every loop device and every program that it started goes with it, so nothing can be left.
//!
//! Subordinate ids come from the source that Podman uses ([`subordinate`]).
//!
//! Root tries all. Any other user tries what a user can, in a user namespace of their own.

mod erofs_image;
mod findings;
mod image;
mod inside;
mod lazy;
mod outside;
pub mod subordinate;
mod trials;

pub use findings::{Ability, Findings, Obstacle, Trial};
pub use image::COMPRESSORS;
pub use outside::{PATH, probe, run_if_asked};
