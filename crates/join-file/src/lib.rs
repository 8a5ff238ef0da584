//! By what a task joins a container that another task of its step has made: a file that the launcher writes and that
//! `parallax-join` reads, and the decisions of that program, which has no C library and no allocator (no I/O).
//!
//! - [`JoinFile`]: the file.
//! - [`rules`]: the variables of the user's command.
//! - [`words`]: names of files and numbers, put together in memory of a fixed size.

#![no_std]

use core::ffi::CStr;

pub mod rules;
pub mod words;

pub use fields::{Encoder, Fields};
pub use file::JoinFile;

mod fields;
mod file;

/// The file, relative to the step's directory. It is empty where tasks cannot join without the launcher.
pub const FILE: &CStr = c"launch/join";

/// The lock of the tasks that make or await the container, relative to the step's directory.
pub const LOCK: &CStr = c"launch/lock";

/// The largest file, in bytes, that is read. The launcher writes no larger one.
pub const MAX_SIZE: usize = 64 << 10;
