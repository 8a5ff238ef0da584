//! Layers of images in the file system, read directly.
//!
//! Passing them through skopeo would take most of a migration's time: it reads, hashes and copies each through a pipe. Its
//! checks are made here in any case: the manifest's digest verifies the configuration, the configuration the diffID, and
//! the converter computes the digest of the unpacked layer.

use std::fs::File;
use std::path::{Path, PathBuf};

use parallax_format::digest::{Digest, Sha256};
use parallax_format::oci::{Descriptor, Index, IndexEntry, NAME_ANNOTATION};
use parallax_store::hash::sha256;

use super::reference::{Reference, Transport};

/// Returns the file of a blob, if the source is a directory that has it. In case of doubt `None`, and skopeo reports the error.
pub(super) fn open(reference: &Reference, blob: &Descriptor) -> Option<File> {
    let path = path(reference, Digest::parse(&blob.digest)?.sha256())?;
    // Looked at before it is opened: opening a FIFO would wait.
    let metadata = path.metadata().ok()?;
    if !metadata.is_file() || metadata.len() != blob.size {
        return None;
    }
    File::open(path).ok()
}

/// Returns the manifest of one image of an index, if the source is a directory that has it.
pub(super) fn manifest(reference: &Reference, digest: &str) -> Option<Vec<u8>> {
    let digest = Digest::parse(digest)?;
    let path = match reference.transport {
        Transport::Dir => Path::new(&reference.rest).join(format!("{}.manifest.json", digest.sha256())),
        _ => path(reference, digest.sha256())?,
    };
    small(&path)
}

/// Returns the manifest or index of a directory, byte for byte, as `skopeo inspect --raw` prints it. In case of doubt `None`,
/// and skopeo decides: an OCI layout may have several images.
pub(super) fn top(reference: &Reference) -> Option<Vec<u8>> {
    let (directory, tag) = match reference.transport {
        Transport::Dir => return small(&Path::new(&reference.rest).join("manifest.json")),
        Transport::Oci => layout(&reference.rest),
        _ => return None,
    };
    let layout: Index = serde_json::from_slice(&small(&Path::new(directory).join("index.json"))?).ok()?;
    let is_meant = |entry: &&IndexEntry| tag.is_none_or(|tag| entry.annotation(NAME_ANNOTATION) == Some(tag));
    let mut meant = layout.manifests.iter().filter(is_meant);
    let (Some(one), None) = (meant.next(), meant.next()) else { return None };
    let digest = Digest::parse(&one.digest)?;
    small(&path(reference, digest.sha256())?).filter(|bytes| Digest::from(sha256(bytes)) == digest)
}

/// Returns a file's content, if the size is within the limit for manifests.
pub(super) fn small(path: &Path) -> Option<Vec<u8>> {
    /// The limit of registries.
    const MAX_BYTES: u64 = 4 << 20;
    let metadata = path.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return None;
    }
    std::fs::read(path).ok()
}

/// Returns the directory of an OCI layout, and the tag in it. skopeo splits at the first colon too.
fn layout(rest: &str) -> (&str, Option<&str>) {
    rest.split_once(':').map_or((rest, None), |(path, tag)| (path, Some(tag).filter(|tag| !tag.is_empty())))
}

fn path(reference: &Reference, sha256: &Sha256) -> Option<PathBuf> {
    match reference.transport {
        Transport::Oci => Some(Path::new(layout(&reference.rest).0).join("blobs/sha256").join(sha256)),
        Transport::Dir => Some(Path::new(&reference.rest).join(sha256)),
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
            let blob = Descriptor { media_type: None, digest: format!("sha256:{hex}"), size };
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

    #[test]
    fn the_manifest_of_a_directory_is_the_one_that_skopeo_takes_and_in_doubt_none() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().display();
        let top = |source: String| top(&Reference::parse(&source).unwrap().unwrap());
        assert_eq!((top(format!("oci:{root}")), top(format!("dir:{root}"))), (None, None));

        fs::write(directory.path().join("manifest.json"), "flat").unwrap();
        assert_eq!(top(format!("dir:{root}")).unwrap(), b"flat");

        let blobs = directory.path().join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let entry = |text: &str, tag: &str| {
            fs::write(blobs.join(sha256(text.as_bytes())), text).unwrap();
            format!(
                r#"{{"digest":"sha256:{}","annotations":{{"{NAME_ANNOTATION}":"{tag}"}}}}"#,
                sha256(text.as_bytes())
            )
        };
        let index = |entries: &[String]| {
            let text = format!(r#"{{"manifests":[{}]}}"#, entries.join(","));
            fs::write(directory.path().join("index.json"), text).unwrap();
        };
        index(&[entry("one", "1")]);
        assert_eq!(top(format!("oci:{root}")).unwrap(), b"one");
        assert_eq!(top(format!("oci:{root}:1")).unwrap(), b"one");
        assert_eq!(top(format!("oci:{root}:2")), None);
        index(&[entry("one", "1"), entry("two", "2")]);
        assert_eq!(top(format!("oci:{root}:2")).unwrap(), b"two");
        assert_eq!(top(format!("oci:{root}")), None);
        fs::write(blobs.join(sha256(b"two")), "another").unwrap();
        assert_eq!(top(format!("oci:{root}:2")), None);
        assert_eq!(top(format!("oci-archive:{root}")), None);
    }
}
