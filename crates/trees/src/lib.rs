//! Repositories of unpacked images in DUCC's layout, or of unpacked layers beside an OCI image layout ([`parallax_format::ducc`]), read
//! with the rights of whoever calls.
//!
//! - [`Repository`]: the images of a repository, by their names.
//! - [`Image`]: an unpacked image, and what the repository has of it beside its files.
//!
//! The plugin, the agent, the launcher and the command search repositories by the same rules. Nothing is written.

mod image;
mod oci_layout;
mod repository;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

pub use image::{Files, Image};
pub use repository::{Repository, known_names, only_in_layers};

/// Maximum size of a manifest or a configuration in bytes, as registries limit them.
const MAX_FILE: u64 = 4 << 20;

/// An error of reading a repository.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A file or a directory cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// The file or the directory.
        path: PathBuf,
        /// The error of the system.
        cause: io::Error,
    },
    /// A file does not have what it must have.
    #[error("{} is malformed: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Reads a file, if it is there.
fn read(path: &Path) -> Result<Option<String>, TreeError> {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
        Ok(text)
    };
    match read() {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(cause) => Err(TreeError::Read { path: path.to_owned(), cause }),
    }
}

/// Whether an error of the system means that there is nothing at a path.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
