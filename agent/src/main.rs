//! `parallax-agent`.

use std::process::ExitCode;

use clap::Parser as _;
use parallax_agent::args::Args;
use parallax_agent::daemon;

fn main() -> ExitCode {
    match daemon::run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("parallax-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
