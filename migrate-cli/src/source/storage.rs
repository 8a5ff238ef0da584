//! Properties of an image in Podman's storage that skopeo does not report: digests of indexes and of other manifests.
//!
//! Podman lists the digests in `images.json` and keeps the documents. The list is not trusted: the storage may belong to
//! any user, and other users rely on a digest. Only the document of a digest can prove that the digest means the image: a
//! manifest with the image's configuration, or an index with such a manifest.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use parallax_format::digest::Digest;
use parallax_format::oci::{Index, IndexEntry};
use parallax_format::podman::{big_data_file, manifest_key};
use parallax_store::hash::sha256;
use parallax_store::read::listed_images;
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::access::Access;
use super::local_name::{self, LocalImage};
use super::reference::{self, Reference};
use super::registries::Registries;
use crate::image::{Image, parse_manifest};

/// Maximum size in bytes of a manifest, the limit of registries.
const MAX_MANIFEST: u64 = 4 << 20;
/// Maximum size in bytes of a list.
const MAX_LIST: u64 = 1 << 30;
/// Default path of root's storage.
const DEFAULT_ROOT: &str = "/var/lib/containers/storage";

/// Finds the image of a Podman storage that a source means, by Podman's rules for local images; `None` if it is not in the storage's
/// own list. Podman may have additional stores, so the image may exist nevertheless.
///
/// # Errors
/// The source is an invalid image name, or the configuration of short names cannot be read.
pub(super) fn look_up(reference: &Reference, access: &Access) -> anyhow::Result<Option<LocalImage>> {
    let images = match (place(&reference.rest), &access.podman_root) {
        (Some(place), _) => place,
        (None, Some(root)) => match reference::driver_of(root) {
            Some(driver) => root.join(format!("{driver}-images")),
            None => return Ok(None),
        },
        (None, None) => podmans_own(),
    };
    let Some(list) = read(&images.join("images.json"), MAX_LIST) else { return Ok(None) };
    let name = reference.within_storage().1;
    local_name::find(name, &listed_images(&list)?, &Registries::load()?)
}

/// Returns the digests of an image in Podman's storage, except that of its manifest. Empty if the storage is not
/// found: the digests are additional ways to find the image, and optional.
pub(super) fn other_digests(reference: &Reference, image: &Image) -> Vec<Digest> {
    let images = place(&reference.rest).unwrap_or_else(podmans_own);
    let found = read(&images.join("images.json"), MAX_LIST)
        .map(|list| in_list(&list, image, |key| read(&images.join(image.id).join(big_data_file(key)), MAX_MANIFEST)));
    found.unwrap_or_else(|| {
        tracing::debug!(place = %images.display(), "Podman's list of images not found");
        Vec::new()
    })
}

/// Returns the directory of a storage's images, if the source names the storage: `[driver@root+…]name`.
fn place(rest: &str) -> Option<PathBuf> {
    let (storage, _) = rest.strip_prefix('[')?.split_once(']')?;
    let (driver, root) = storage.split_once('@')?;
    let root = root.split(['+', ':']).next()?;
    Some(Path::new(root).join(format!("{driver}-images")))
}

/// The same for the user's own storage, which Podman knows.
fn podmans_own() -> PathBuf {
    let output = Command::new("podman")
        .args(["info", "--format", "{{.Store.GraphDriverName}} {{.Store.GraphRoot}}"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok());
    let words = output.as_deref().map(str::trim).and_then(|output| output.split_once(' '));
    let (driver, root) = words.unwrap_or(("overlay", DEFAULT_ROOT));
    Path::new(root).join(format!("{driver}-images"))
}

/// Returns the digests that a list, the bytes of images.json, has for an image, if `data`, which reads the document of a key,
/// confirms them.
fn in_list(list: &[u8], image: &Image, data: impl Fn(&str) -> Option<Vec<u8>>) -> Vec<Digest> {
    let entries = listed_images(list).unwrap_or_default();
    let Some(entry) = entries.into_iter().find(|entry| entry.id == image.id.as_str()) else { return Vec::new() };
    let claimed: BTreeSet<Digest> = entry.manifest_digests().filter(|digest| *digest != image.digest).collect();
    let read: Vec<(Digest, Vec<u8>)> = claimed
        .into_iter()
        .filter_map(|digest| Some((digest, data(&manifest_key(&digest))?)))
        .filter(|(digest, bytes)| Digest::from(sha256(bytes)) == *digest)
        .collect();
    let config = Digest::from(image.id).to_string();
    let is_manifest = |bytes: &[u8]| parse_manifest(bytes).is_ok_and(|manifest| manifest.config.digest == config);
    let manifests: BTreeSet<Digest> =
        read.iter().filter(|(_, bytes)| is_manifest(bytes)).map(|(digest, _)| *digest).chain([image.digest]).collect();
    let is_index = |bytes: &[u8]| {
        let has_one =
            |entry: &IndexEntry| Digest::parse(&entry.digest).is_some_and(|digest| manifests.contains(&digest));
        serde_json::from_slice::<Index>(bytes).is_ok_and(|index| index.manifests.iter().any(has_one))
    };
    let means_it = |(digest, bytes): &(Digest, Vec<u8>)| manifests.contains(digest) || is_index(bytes);
    read.iter().filter(|found| means_it(found)).map(|(digest, _)| *digest).collect()
}

/// Returns the bytes of a regular file of at most this size. Another user's directory may contain any kind of file.
fn read(path: &Path, most: u64) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(openat(CWD, path, flags, Mode::empty()).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= most).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn digest_of(bytes: &[u8]) -> Digest {
        sha256(bytes).into()
    }

    fn manifest(config: &str, note: &str) -> Vec<u8> {
        let layer = json!({"digest": digest_of(b"a layer"), "size": 3});
        let config = json!({"digest": digest_of(config.as_bytes()), "size": config.len()});
        json!({"config": config, "layers": [layer], "note": note}).to_string().into_bytes()
    }

    fn index(manifest: &[u8]) -> Vec<u8> {
        json!({"manifests": [{"digest": digest_of(manifest), "size": 1}]}).to_string().into_bytes()
    }

    #[test]
    fn only_what_a_digest_was_taken_of_is_believed() {
        let config = json!({"rootfs": {"diff_ids": [digest_of(b"a tar stream")]}}).to_string();
        let own = manifest(&config, "own");
        let image =
            Image::new(&digest_of(&own).to_string(), own.clone(), Vec::new(), config.clone().into_bytes()).unwrap();
        let other = manifest(&config, "compressed otherwise");
        let strange = manifest("{}", "another image's");
        let good = [other.clone(), index(&own), index(&other)];
        let bad = [strange.clone(), index(&strange), b"no json".to_vec()];
        let key = |bytes: &[u8]| manifest_key(&digest_of(bytes));
        let mut data: BTreeMap<String, Vec<u8>> =
            good.iter().chain(&bad).chain([&own]).map(|bytes| (key(bytes), bytes.clone())).collect();
        // Claimed, but something else, and not there at all.
        let forged = manifest_key(&digest_of(b"forged"));
        data.insert(forged.clone(), index(&own));
        let missing = manifest_key(&digest_of(b"missing"));
        let keys = data.keys().chain([&missing]);
        let digests: BTreeMap<&String, &str> = keys.map(|key| (key, key.trim_start_matches("manifest-"))).collect();
        let list = json!([{"id": "x"}, {"id": image.id, "digest": image.digest, "big-data-digests": digests}]);
        let found = in_list(list.to_string().as_bytes(), &image, |key| data.get(key).cloned());
        let mut expected: Vec<Digest> = good.iter().map(|bytes| digest_of(bytes)).collect();
        expected.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_storage_is_the_one_that_is_named() {
        let own = Some(PathBuf::from("/a/b/overlay-images"));
        assert_eq!(place("[overlay@/a/b+/run/x]localhost/a:1"), own);
        assert_eq!(place("[overlay@/a/b+/run/x:overlay.mount_program=/x]a"), own);
        assert_eq!(place("localhost/a:1"), None);
    }

    #[test]
    fn what_is_no_plain_file_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        rustix::fs::mknodat(CWD, &path, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(read(&path, 10), None);
        std::fs::write(directory.path().join("b"), "12345").unwrap();
        assert_eq!(read(&directory.path().join("b"), 5), Some(b"12345".to_vec()));
        assert_eq!(read(&directory.path().join("b"), 4), None);
        std::os::unix::fs::symlink("b", directory.path().join("c")).unwrap();
        assert_eq!(read(&directory.path().join("c"), 10), None);
    }
}
