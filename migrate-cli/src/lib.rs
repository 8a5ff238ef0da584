//! The command `parallax`, which adds images to a store and manages them.
//!
//! - [`run`]: runs the command; [`command`]: the description of its command line.
//! - [`image`], [`migration::flat`], [`source::registries`]: parsers of foreign input, public for fuzzing.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod chunk_push;
mod chunking;
mod cli;
mod commands;
mod compat;
mod global;
pub mod image;
mod interrupt;
mod lazy_worker;
pub mod migration;
mod output;
mod progress;
mod runnable;
pub mod source;
mod units;
mod whole_files;

use std::process::ExitCode;

/// The command line's own description, from which manual pages and completions are made.
#[must_use]
pub fn command() -> clap::Command {
    cli::command()
}

/// Runs the command that this process was started with.
#[must_use]
pub fn run() -> ExitCode {
    if let Some(code) = parallax_probe::run_if_asked() {
        return code;
    }
    cli::run()
}
