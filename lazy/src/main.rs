//! `parallax-lazy`.

use std::process::ExitCode;

use clap::Parser as _;
use parallax_lazy::args::Args;
use parallax_lazy::daemon;

fn main() -> ExitCode {
    match daemon::run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("parallax-lazy: {error:#}");
            ExitCode::FAILURE
        }
    }
}
