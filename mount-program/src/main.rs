//! `parallax-mount-program`: not written yet, and not installed. It fails, so that nobody takes it for a mount program that
//! has mounted something.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!("parallax-mount-program: this version of Parallax comes without it");
    ExitCode::FAILURE
}
