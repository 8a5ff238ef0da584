//! What the rendering of an environment reads of the machine.

use std::io;
use std::path::Path;

/// What is read while an environment is rendered.
pub trait Sources {
    /// Reads a regular file, up to `limit` bytes.
    ///
    /// # Errors
    /// It cannot be read.
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>>;
    /// Whether there is a file at this path.
    fn is_file(&self, path: &Path) -> bool;
    /// The names of the files in a directory; none if it cannot be read.
    fn list(&self, directory: &Path) -> Vec<String>;
    /// The value of a variable, if it is set and UTF-8.
    fn variable(&self, name: &str) -> Option<String>;
}
