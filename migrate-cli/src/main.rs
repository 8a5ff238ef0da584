//! `parallax`: adds images to a store and manages them.

use std::process::ExitCode;

fn main() -> ExitCode {
    parallax_migrate_cli::run()
}
