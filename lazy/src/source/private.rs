//! Files that not everybody may read: keys and passwords.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Maximum size of such a file in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Read or write access for others than the file's owner and group.
const OTHERS: u32 = 0o007;

/// Reads a file that others than its owner and group cannot.
///
/// # Errors
/// The reason, a part of a sentence.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let open = || -> std::io::Result<(u32, String)> {
        let file = File::open(path)?;
        let mode = file.metadata()?.mode();
        let mut text = String::new();
        file.take(MAX_FILE).read_to_string(&mut text)?;
        Ok((mode, text))
    };
    let (mode, text) = open().map_err(|error| error.to_string())?;
    if mode & OTHERS != 0 {
        return Err(format!("everybody has access to it (mode {:04o}); chmod o= {}", mode & 0o7777, path.display()));
    }
    Ok(text)
}
