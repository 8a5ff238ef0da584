//! `parallax`: brings images into a store and shows what is in it.

use std::process::ExitCode;

fn main() -> ExitCode {
    parallax_migrate_cli::run()
}
