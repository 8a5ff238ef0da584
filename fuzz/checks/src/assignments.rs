//! `parallax-mount.conf`, which a script executed, and the options that Podman hands to the mount program.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use parallax_mount_program::assignments;
use parallax_mount_program::options::Options;

/// Any bytes are refused with a line's number, or are assignments to variables; and options, none of whose paths is empty.
///
/// # Panics
/// If they are neither.
pub fn check(input: &[u8]) {
    let get = |name: &str| (name == "HOME").then(|| OsString::from("/home/u1"));
    let mut notes = Vec::new();
    match assignments::read(input, Path::new("/etc/parallax-mount.conf"), &get, &mut |note| notes.push(note)) {
        Ok(assignments) => {
            for assignment in assignments {
                let mut bytes = assignment.name.bytes();
                assert!(bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_'), "{assignment:?}");
                assert!(bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{assignment:?}");
            }
        }
        Err(error) => {
            let said = error.to_string();
            let line = said.strip_prefix("/etc/parallax-mount.conf, line ").and_then(|rest| rest.split(':').next());
            let line: usize = line.and_then(|line| line.parse().ok()).expect("the line's number");
            assert!((1..=1 + input.iter().filter(|byte| **byte == b'\n').count()).contains(&line), "{said}");
        }
    }
    let most = input.iter().filter(|byte| **byte == b'\n').count() + 1;
    assert!(notes.len() <= most, "{notes:?}");
    if let Ok(options) = Options::parse(OsStr::from_bytes(input)) {
        assert!(!options.lower.is_empty() && options.lower.iter().all(|path| !path.as_os_str().is_empty()));
    }
}
