//! `make soak`: random steps and random faults, for as long as one likes.

use std::process::ExitCode;

fn main() -> ExitCode {
    parallax_soak::main()
}
