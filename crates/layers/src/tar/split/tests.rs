//! Archives put together again from tar-split data and the files of the SquashFS file, as Podman does it.

use std::io::Read as _;
use std::process::Command;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::decompress::hex;
use crate::testing::Archive;
use crate::{Layer, Maker, Mksquashfs, SquashfsOptions, convert, flatten};

/// The lines of tar-split data.
fn entries(file: &Path) -> Vec<Value> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(File::open(file).unwrap()).read_to_string(&mut text).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The archive that the data and the files make, and how many files it took.
fn together(tar_split: &Path, squashfs: &Path) -> (Vec<u8>, usize) {
    let (mut archive, mut files) = (Vec::new(), 0);
    for (position, entry) in entries(tar_split).iter().enumerate() {
        assert_eq!(entry["position"], position);
        let payload = STANDARD.decode(entry["payload"].as_str().unwrap()).unwrap();
        if entry["type"] == 2 {
            archive.extend(payload);
            continue;
        }
        assert_eq!(entry["type"], 1);
        let name = entry["name"].as_str().unwrap();
        let read = Command::new("unsquashfs").arg("-cat").arg(squashfs).arg(name).output().unwrap();
        assert!(read.status.success(), "{read:?}");
        assert_eq!(entry["size"], read.stdout.len());
        assert_eq!(payload, CRC.checksum(&read.stdout).to_be_bytes());
        archive.extend(read.stdout);
        files += 1;
    }
    (archive, files)
}

fn maker() -> Maker {
    Maker::Squashfs(Mksquashfs::find().unwrap(), SquashfsOptions::default())
}

/// Converts a layer and puts its archive together again; returns how many files were taken from the SquashFS file.
fn check(archive: &[u8]) -> usize {
    let directory = tempfile::tempdir().unwrap();
    let (file, split) = (directory.path().join("file"), directory.path().join("split"));
    let diff_id = hex(Sha256::new_with_prefix(archive));
    let layer = Layer { tar_split: Some(&split), ..Layer::new(&diff_id, &file) };
    let converted = convert(layer, &maker(), || Ok(archive)).unwrap();
    let bytes = fs::read(&split).unwrap();
    let expected = TarSplitFile { size: bytes.len() as u64, sha256: hex(Sha256::new_with_prefix(&bytes)) };
    assert_eq!(converted.tar_split, Some(expected));
    let (made, files) = together(&split, &file);
    assert!(made == archive, "{} and {} bytes", made.len(), archive.len());
    files
}

#[test]
fn checksums_are_those_of_go() {
    assert_eq!(CRC.checksum(b"123456789"), 0xb909_56c7_75a4_1001);
}

#[test]
fn an_archive_comes_back_byte_by_byte() {
    let archive = Archive::default()
        .dir("./")
        .file("/a", b"some text")
        .file("empty", b"")
        .link(b'1', "b", "a")
        .link(b'2', "lib", "usr/lib")
        .file("lib/x.so", &[3; 200_000])
        .file("lib/.wh.y", b"")
        .pax(&[(b"mtime", b"17.25"), (b"SCHILY.xattr.user.x", b"\x01")])
        .file("p", &[5; 70_000]);
    assert_eq!(check(&archive.end()), 3);
}

#[test]
fn contents_that_are_not_left_are_in_the_data_itself() {
    let replaced = Archive::default().file("a", &[1; 3000]).file("b", b"b").file("a", b"new").file("d/x", b"x");
    assert_eq!(check(&replaced.link(b'2', "d", "t").end()), 2);
    let hole: [(&[u8], &[u8]); 3] =
        [(b"GNU.sparse.size", b"40000"), (b"GNU.sparse.numblocks", b"1"), (b"GNU.sparse.map", b"5,1")];
    assert_eq!(check(&Archive::default().pax(&hole).file("hole", b"x").end()), 0);
    assert_eq!(check(&Archive::default().header(b'0', b"n\xff", b"", 3).data(b"abc").end()), 0);
}

#[test]
fn what_comes_after_the_end_comes_back_too() {
    let mut archive = Archive::default().file("a", b"1").end();
    archive.extend([0; 9728]);
    check(&archive);
    // Some builders leave the end away.
    check(&Archive::default().file("a", b"1").0);
}

#[test]
fn a_flattened_image_has_one_for_the_archive_that_its_diff_id_is_of() {
    let directory = tempfile::tempdir().unwrap();
    let (file, split) = (directory.path().join("file"), directory.path().join("split"));
    let layers = [
        Archive::default().file("d/a", b"1").file("d/b", b"22").end(),
        Archive::default().file("d/.wh.a", b"").file("d/c", b"333").link(b'1', "l", "d/c").end(),
    ];
    let ids = layers.each_ref().map(|layer| hex(Sha256::new_with_prefix(layer)));
    let layer = Layer { tar_split: Some(&split), ..Layer::new("", &file) };
    let flattened = flatten(&ids.each_ref().map(parallax_format::digest::Sha256::as_str), layer, &maker(), |index| {
        Ok(&layers[index][..])
    });
    let (archive, files) = together(&split, &file);
    assert_eq!((files, hex(Sha256::new_with_prefix(&archive)).into()), (2, flattened.unwrap().diff_id));
}
