//! Serves a directory once more as a file system that refuses locks: `without-locks DIRECTORY MOUNT-POINT ERRNO [QUOTA]`, until it
//! is unmounted. The quota is in bytes.

use std::path::Path;
use std::process::ExitCode;

use integration_tests::without_locks::serve;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (directory, mount_point, errno, quota) = match &words[..] {
        [directory, mount_point, errno] => (directory, mount_point, errno, Ok(None)),
        [directory, mount_point, errno, quota] => (directory, mount_point, errno, quota.parse().map(Some)),
        _ => {
            eprintln!("usage: without-locks DIRECTORY MOUNT-POINT ERRNO [QUOTA]");
            return ExitCode::from(2);
        }
    };
    let quota = quota.map_err(anyhow::Error::from);
    match quota.and_then(|quota| serve(Path::new(directory), Path::new(mount_point), errno, quota)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("without-locks: {error:#}");
            ExitCode::FAILURE
        }
    }
}
