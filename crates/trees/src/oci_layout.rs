//! Images whose layers lie unpacked beside an OCI image layout (OCI image specification 1.1).

use std::path::Path;

use parallax_format::digest::Digest;
use parallax_format::oci::{Index, IndexEntry, Manifest, NAME_ANNOTATION, Platform};
use parallax_format::{ImageName, ducc};

use crate::{TreeError, read};

/// Maximum number of indexes on the way to a manifest.
const MAX_DEPTH: usize = 4;

/// Returns the names of the images in a repository's OCI layout, fully qualified; no name if it has no layout.
pub(crate) fn names(root: &Path) -> Result<Vec<String>, TreeError> {
    Ok(entries(root)?.iter().filter_map(name).collect())
}

/// Reads the manifest of the image with this name, that for this machine's platform if there are several.
pub(crate) fn manifest(root: &Path, wanted: &str) -> Result<Option<Manifest>, TreeError> {
    let entry = entries(root)?.into_iter().find(|entry| name(entry).as_deref() == Some(wanted));
    entry.map_or(Ok(None), |entry| of_digest(root, &entry.digest, MAX_DEPTH))
}

fn entries(root: &Path) -> Result<Vec<IndexEntry>, TreeError> {
    let path = root.join(ducc::OCI_INDEX);
    let Some(text) = read(&path)? else { return Ok(Vec::new()) };
    let index: Index = serde_json::from_str(&text).map_err(|error| malformed(&path, &error))?;
    Ok(index.manifests)
}

/// Returns an image's name, as it would be in a store. Tools write whole names, short ones, or a tag alone.
fn name(entry: &IndexEntry) -> Option<String> {
    Some(ImageName::for_storing(entry.annotation(NAME_ANNOTATION)?).ok()?.to_string())
}

fn of_digest(root: &Path, digest: &str, depth: usize) -> Result<Option<Manifest>, TreeError> {
    let index = root.join(ducc::OCI_INDEX);
    let digest = Digest::parse(digest).ok_or_else(|| malformed(&index, &"the digest of a manifest is invalid"))?;
    let path = root.join(ducc::blob(&digest));
    let Some(text) = read(&path)? else { return Ok(None) };
    let inner = match serde_json::from_str::<Manifest>(&text) {
        Ok(manifest) => return Ok(Some(manifest)),
        Err(error) => serde_json::from_str::<Index>(&text).map_err(|_| malformed(&path, &error))?,
    };
    let this = Platform::of_this_machine();
    let fits = |entry: &IndexEntry| entry.platform.as_ref().is_none_or(|platform| this.takes(platform));
    match (inner.manifests.into_iter().find(fits), depth.checked_sub(1)) {
        (Some(entry), Some(depth)) => of_digest(root, &entry.digest, depth),
        _ => Ok(None),
    }
}

fn malformed(path: &Path, reason: &dyn std::fmt::Display) -> TreeError {
    TreeError::Malformed { path: path.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_manifest_is_found_by_its_name_and_platform() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        assert_eq!((names(root).unwrap(), manifest(root, "localhost/a:1").unwrap()), (vec![], None));
        let hex = |part: &str| part.repeat(32);
        let blob = |part: &str, text: &str| {
            let path = root.join(ducc::blob(&Digest::parse(&format!("sha256:{}", hex(part))).unwrap()));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let this = Platform::of_this_machine();
        let entry = |part: &str, name: &str| {
            format!(r#"{{"digest":"sha256:{}","annotations":{{"{NAME_ANNOTATION}":"{name}"}}}}"#, hex(part))
        };
        let index = format!("{{\"manifests\":[{},{}]}}", entry("aa", "a:1"), entry("bb", "quay.io/a/b:1"));
        fs::write(root.join(ducc::OCI_INDEX), index).unwrap();
        let image = |part: &str| format!(r#"{{"config":{{"digest":"sha256:{}","size":1}},"layers":[]}}"#, hex(part));
        blob("aa", &image("01"));
        let platforms = [("cc", "other"), ("dd", this.architecture.as_str())].map(|(part, architecture)| {
            let digest = hex(part);
            format!(r#"{{"digest":"sha256:{digest}","platform":{{"os":"linux","architecture":"{architecture}"}}}}"#)
        });
        blob("bb", &format!("{{\"manifests\":[{}]}}", platforms.join(",")));
        blob("dd", &image("02"));
        assert_eq!(names(root).unwrap(), ["localhost/a:1", "quay.io/a/b:1"]);
        let configuration = |name: &str| manifest(root, name).unwrap().map(|manifest| manifest.config.digest);
        assert_eq!(configuration("localhost/a:1"), Some(format!("sha256:{}", hex("01"))));
        assert_eq!(configuration("quay.io/a/b:1"), Some(format!("sha256:{}", hex("02"))));
        assert_eq!(configuration("quay.io/a/b:2"), None);
        blob("dd", "<html>");
        assert!(manifest(root, "quay.io/a/b:1").unwrap_err().to_string().contains("is malformed"));
    }
}
