//! `parallax`: brings images into a store and shows what is in it.

mod cli;
mod commands;
mod compat;
mod image;
mod interrupt;
mod migration;
mod progress;
mod source;
mod units;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = parallax_probe::run_if_asked() {
        return code;
    }
    cli::run()
}
