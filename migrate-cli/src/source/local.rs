//! Layers of images that lie in the file system, read where they are.
//!
//! skopeo would take most of a migration's time to pass them on: it reads, hashes and copies each through a pipe. What
//! it checks is checked here anyway: the manifest's digest names the configuration, the configuration the diffID, and
//! the converter takes the digest of what the layer unpacks to.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::{Reference, Transport};
use crate::image::{Descriptor, hex_of};

/// The file of a blob, if the source is a directory that has it. In doubt it has not, and skopeo says what is wrong.
pub(super) fn open(reference: &Reference, blob: &Descriptor) -> Option<File> {
    let path = path(reference, hex_of(&blob.digest)?)?;
    // Looked at before it is opened: opening a FIFO would wait.
    let metadata = path.metadata().ok()?;
    if !metadata.is_file() || metadata.len() != blob.size {
        return None;
    }
    File::open(path).ok()
}

/// The manifest of one image of an index, if the source is a directory that has it.
pub(super) fn manifest(reference: &Reference, digest: &str) -> Option<Vec<u8>> {
    /// The limit of registries.
    const MOST: u64 = 4 << 20;
    let hex = hex_of(digest)?;
    let path = match reference.transport {
        Transport::Dir => Path::new(&reference.rest).join(format!("{hex}.manifest.json")),
        _ => path(reference, hex)?,
    };
    let metadata = path.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > MOST {
        return None;
    }
    std::fs::read(path).ok()
}

fn path(reference: &Reference, hex: &str) -> Option<PathBuf> {
    let blobs = |directory: &str| Path::new(directory).join("blobs/sha256").join(hex);
    match reference.transport {
        // skopeo splits at the first colon too.
        Transport::Oci => Some(blobs(reference.rest.split_once(':').map_or(&*reference.rest, |(path, _)| path))),
        Transport::Dir => Some(Path::new(&reference.rest).join(hex)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn blobs_of_the_right_size_are_read_where_they_lie() {
        let directory = tempfile::tempdir().unwrap();
        let (root, hex) = (directory.path().display(), "ab".repeat(32));
        fs::create_dir_all(directory.path().join("blobs/sha256")).unwrap();
        fs::write(directory.path().join("blobs/sha256").join(&hex), "oci").unwrap();
        fs::write(directory.path().join(&hex), "flat").unwrap();
        let size = |source: String, size| {
            let blob = Descriptor { digest: format!("sha256:{hex}"), size };
            let file = open(&Reference::parse(&source).unwrap().unwrap(), &blob);
            file.map(|file| file.metadata().unwrap().len())
        };
        assert_eq!(size(format!("oci:{root}"), 3), Some(3));
        assert_eq!(size(format!("oci:{root}:tag"), 3), Some(3));
        assert_eq!(size(format!("dir:{root}"), 4), Some(4));
        assert_eq!(size(format!("oci:{root}"), 4), None);
        assert_eq!(size(format!("oci-archive:{root}"), 3), None);
        assert_eq!(size("docker://localhost/a".to_owned(), 3), None);
    }
}
