//! The content digest of a SquashFS file.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::content::{Content, ContentDigest, FileId, Hashing, id_of, id_of_root};
use crate::error::ConvertError;
use crate::path::LayerPath;
use crate::tar::entry::{Kind, TarError};
use crate::tar::limits::Limits;
use crate::tar::reader::TarReader;

/// The program that reads SquashFS without mounting it, with extended attributes and hard links.
const PROGRAM: &str = "sqfs2tar";

/// Returns the content digest of a SquashFS file. For a file of [`crate::convert()`] it equals
/// [`crate::Converted::content`], independent of the compression and the order of the files.
///
/// # Errors
/// [`ConvertError::NoReader`] if sqfs2tar is missing, other errors if the file cannot be read to its end.
pub fn content_digest(file: &Path) -> Result<ContentDigest, ConvertError> {
    let mut child = Command::new(PROGRAM)
        .args(["--no-skip", "--root-becomes", "."])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| ConvertError::NoReader(format!("{PROGRAM} cannot be run: {error}")))?;
    let (Some(stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(ConvertError::Read(io::Error::other("sqfs2tar has no pipes")));
    };
    let messages = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = stderr.by_ref().take(4096).read_to_string(&mut text);
        let _ = io::copy(&mut stderr, &mut io::sink());
        text.trim().replace('\n', "; ")
    });
    let digest = of_archive(stdout, Content::default());
    let status = child.wait().map_err(ConvertError::Read)?;
    let message = messages.join().unwrap_or_default();
    if !status.success() {
        return Err(ConvertError::Read(io::Error::other(format!("{PROGRAM} failed ({status}): {message}"))));
    }
    Ok(digest?)
}

/// Returns the content digest of an archive as `convert/emit.rs` writes it, with the names already in `content`.
pub(crate) fn of_archive(archive: impl Read, mut content: Content) -> Result<ContentDigest, TarError> {
    let mut tar = TarReader::new(io::BufReader::with_capacity(256 << 10, archive));
    tar = tar.limited_to(Limits { bytes: u64::MAX, entries: u64::MAX });
    let mut files: HashMap<LayerPath, FileId> = HashMap::new();
    while let Some(entry) = tar.next()? {
        let path = LayerPath::of_entry(&entry.name).map_err(|error| TarError::refuse(&entry.name, error))?;
        if path.is_root() {
            content.add(&path, id_of_root(&entry.meta));
            continue;
        }
        let id = match &entry.kind {
            Kind::File(_) => {
                let mut nowhere = io::sink();
                let mut hashing = Hashing::new(&mut nowhere);
                tar.copy_data(&path, &mut hashing)?;
                hashing.id(&entry.kind, &entry.meta)
            }
            Kind::HardLink(target) => {
                let target = LayerPath::of_entry(target).map_err(|error| TarError::refuse(&entry.name, error))?;
                let id = files.get(&target).copied().unwrap_or_default();
                content.add_link(&path, id);
                files.insert(path, id);
                continue;
            }
            kind => id_of(kind, &entry.meta),
        };
        content.add(&path, id);
        if entry.kind != Kind::Dir {
            files.insert(path, id);
        }
    }
    Ok(content.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Archive;
    use crate::{Compression, Layer, Maker, Mksquashfs, SquashfsOptions, convert};
    use sha2::{Digest as _, Sha256};

    fn squashfs(archive: &[u8], file: &Path, compression: Compression) -> ContentDigest {
        let diff_id = crate::decompress::hex(Sha256::new_with_prefix(archive));
        let layer = Layer::new(&diff_id, file);
        let options = SquashfsOptions { compression, ..SquashfsOptions::default() };
        convert(layer, &Maker::Squashfs(Mksquashfs::find().unwrap(), options), || Ok(archive)).unwrap().content
    }

    fn archive(text: &[u8]) -> Vec<u8> {
        let capability: &[(&[u8], &[u8])] =
            &[(b"SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0")];
        Archive::default()
            .dir("./")
            .dir("d/")
            .file("d/z", text)
            .link(b'1', "a", "d/z")
            .link(b'1', "d/b", "a")
            .link(b'2', "s", "../../d")
            .file("d/.wh.gone", b"")
            .file("e/.wh..wh..opq", b"")
            .pax(capability)
            .file("e/capable", &[7; 200_000])
            .end()
    }

    #[test]
    fn a_file_holds_what_the_layer_held_however_it_is_packed() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let one = squashfs(&archive(b"text"), &file("one"), Compression::Zstd(3));
        let two = squashfs(&archive(b"text"), &file("two"), Compression::None);
        assert_eq!((&one, content_digest(&file("one")).unwrap()), (&two, one.clone()));
        assert_eq!(content_digest(&file("two")).unwrap(), one);
        // Replaced entries take the other path through the converter.
        let replaced = [&Archive::default().file("d/z", b"old").end()[..1024], &archive(b"text")].concat();
        assert_eq!(squashfs(&replaced, &file("three"), Compression::Lz4 { high: false }), one);
        let other = squashfs(&archive(b"test"), &file("four"), Compression::Zstd(3));
        assert_ne!(other, one);
        assert_eq!(content_digest(&file("four")).unwrap(), other);
        std::fs::write(file("five"), "no SquashFS").unwrap();
        assert!(content_digest(&file("five")).is_err());
    }
}
