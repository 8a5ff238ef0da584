//! Serves a directory once more as a file system that refuses locks: `without-locks DIRECTORY MOUNT-POINT ERRNO`, until it is
//! unmounted.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [directory, mount_point, errno] = &words[..] else {
        eprintln!("usage: without-locks DIRECTORY MOUNT-POINT ERRNO");
        return ExitCode::from(2);
    };
    match integration_tests::without_locks::serve(Path::new(directory), Path::new(mount_point), errno) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("without-locks: {error:#}");
            ExitCode::FAILURE
        }
    }
}
