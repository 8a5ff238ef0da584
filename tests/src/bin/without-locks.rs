//! Serves a directory once more as a file system that refuses locks: `without-locks DIRECTORY MOUNT-POINT ERRNO [QUOTA [LATENCY]]`,
//! until it is unmounted. The quota is in bytes; the latency, that of each read, in milliseconds.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use integration_tests::without_locks::serve;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [directory, mount_point, errno, numbers @ ..] = &words[..] else {
        eprintln!("usage: without-locks DIRECTORY MOUNT-POINT ERRNO [QUOTA [LATENCY]]");
        return ExitCode::from(2);
    };
    let numbers: Result<Vec<u64>, _> = numbers.iter().map(|number| number.parse()).collect();
    let served = numbers.map_err(anyhow::Error::from).and_then(|numbers| {
        let (quota, latency) = (numbers.first().copied(), numbers.get(1).copied().unwrap_or_default());
        serve(Path::new(directory), Path::new(mount_point), errno, quota, Duration::from_millis(latency))
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("without-locks: {error:#}");
            ExitCode::FAILURE
        }
    }
}
