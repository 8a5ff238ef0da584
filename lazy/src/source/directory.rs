//! A chunk store in a directory.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use parallax_chunks::ChunkId;
use parallax_format::digest::Sha256;

use super::{Source, SourceError};

/// The chunks of a directory, such as `parallax/layers/default.castr` of a store.
#[derive(Debug)]
pub struct DirectorySource {
    path: PathBuf,
    name: String,
}

impl DirectorySource {
    /// Returns the source. The directory need not exist yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), name: path.display().to_string() }
    }
}

impl Source for DirectorySource {
    fn file(&self, _: &Sha256, id: &ChunkId, max: usize) -> Result<Vec<u8>, SourceError> {
        let mut bytes = Vec::new();
        let read =
            File::open(self.path.join(id.path())).and_then(|file| file.take(max as u64 + 1).read_to_end(&mut bytes));
        match read {
            Ok(size) if size > max => Err(SourceError::Permanent("the chunk's file is too large".to_owned())),
            Ok(_) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(SourceError::NotFound),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(SourceError::Permanent(error.to_string()))
            }
            Err(error) => Err(SourceError::Temporary(error.to_string())),
        }
    }

    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use parallax_chunks::Algorithm;

    use super::*;

    fn layer() -> Sha256 {
        Sha256::from([1; 32])
    }

    #[test]
    fn files_are_where_casync_has_them() {
        let directory = tempfile::tempdir().unwrap();
        let source = DirectorySource::new(directory.path());
        let id = ChunkId::of(b"x", Algorithm::Sha256);
        assert_eq!(source.file(&layer(), &id, 10), Err(SourceError::NotFound));
        fs::create_dir(directory.path().join(id.directory())).unwrap();
        fs::write(directory.path().join(id.path()), "0123456789").unwrap();
        assert_eq!(source.file(&layer(), &id, 10).unwrap(), b"0123456789");
        assert!(matches!(source.file(&layer(), &id, 9), Err(SourceError::Permanent(_))));
        fs::remove_file(directory.path().join(id.path())).unwrap();
        fs::create_dir(directory.path().join(id.path())).unwrap();
        assert!(matches!(source.file(&layer(), &id, 10), Err(SourceError::Temporary(_))));
    }
}
