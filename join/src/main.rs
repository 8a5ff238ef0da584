//! `parallax-join`: a task that joins a container which another task of its step has made, and becomes its command there.
//!
//! A step may have hundreds of tasks on a node, and each begins with this program, so it does nothing that it need not: there is no C library,
//! whose start takes longer than all that is done here, no allocator, and no code that is not run. What it does not know how to do, and
//! whatever fails, it leaves to the launcher, which says so in words.
//!
//! - [`arguments`]: what the plugin says.
//! - [`task`]: one task, from its start to the user's command.
//! - [`kernel`]: system calls; the only `unsafe`.
//! - [`start`]: from the kernel's first instruction to [`task`], and what the compiler takes for granted.

#![no_std]
#![no_main]
#![no_builtins]

mod arguments;
mod kernel;
mod start;
mod task;
