//! `parallax-agent`.

use std::process::ExitCode;

use clap::Parser as _;
use parallax_agent::args::Args;
use parallax_agent::{daemon, helper};

fn main() -> ExitCode {
    if let Some(code) = parallax_probe::run_if_asked().or_else(helper::run_if_asked) {
        return code;
    }
    match daemon::run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("parallax-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
