//! `make bench`: how fast Parallax is, side by side with what it is measured against.

use std::process::ExitCode;

fn main() -> ExitCode {
    parallax_bench::main()
}
