//! The layout that DUCC, the daemon that fills CVMFS' `unpacked.cern.ch`, gives a repository of unpacked images.
//!
//! All paths are relative to the repository's root. The public name of an image is a symbolic link, `REGISTRY/REPOSITORY:TAG`, to
//! `.flat/XX/ID`, where the image id is the digest of its configuration. The configuration itself is only where DUCC makes a store for
//! Podman; the variables are in a script for Apptainer, too.
//!
//! An image may lie there in other forms: as `.chains/XX/ID`, all its layers together without the files for Apptainer, and as single layers
//! in `.layers/XX/DIGEST/layerfs`. Layers that other tools unpacked lie in `layers/sha256/DIGEST` beside an OCI image layout, as their
//! archives do in `blobs/sha256`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::digest::{Digest, ImageId, Sha256};
use crate::layout::{LAYERS_JSON, LOWER, image_directory, layer_directory};
use crate::name::{DEFAULT_REGISTRY, ImageName};
use crate::podman::big_data_file;
use crate::reference::ImageRef;

/// The directory of what DUCC records of images, by their public names.
pub const METADATA: &str = ".metadata";
/// The file with the manifest in an image's directory below [`METADATA`].
pub const MANIFEST: &str = "manifest.json";
/// The directory of unpacked layers, by the digests of their compressed tars.
const LAYERS: &str = ".layers";
/// The unpacked files in a layer's directory.
const LAYER_FILES: &str = "layerfs";
/// The directory of unpacked images.
const FLAT: &str = ".flat";
/// The directory of images without files of DUCC's own, by the digests of their layers.
const CHAINS: &str = ".chains";
/// The directories of an OCI image layout, and that of unpacked layers beside it.
const BLOBS: &str = "blobs";
const PLAIN_LAYERS: &str = "layers";
/// The images of an OCI image layout.
pub const OCI_INDEX: &str = "index.json";
/// DUCC's store for Podman.
const PODMAN_STORE: &str = "podmanStore";
/// The host of Docker Hub in DUCC's lists of images.
const DOCKER_HUB: &str = "registry.hub.docker.com";

/// The script in an image by which Apptainer sets the image's variables.
pub const APPTAINER_VARIABLES: &str = "/.singularity.d/env/10-docker2singularity.sh";

/// The directory of what Apptainer reads in an image; DUCC puts it there.
pub const APPTAINER: &str = ".singularity.d";
/// What the names of files begin with that stand for deleted ones in an unpacked layer (OCI image specification 1.1).
pub const WHITEOUT: &str = ".wh.";
/// The file in a directory of an unpacked layer that hides what lower layers have there (OCI image specification 1.1).
pub const OPAQUE: &str = ".wh..wh..opq";

/// Returns the directory with the files of an unpacked layer, by its digest in the manifest.
#[must_use]
pub fn layer(digest: &Digest) -> String {
    let hex = digest.sha256().as_str();
    format!("{LAYERS}/{}/{hex}/{LAYER_FILES}", hex.get(..2).unwrap_or_default())
}

/// Returns the directory with the files of a layer that lies unpacked beside an OCI image layout.
#[must_use]
pub fn plain_layer(digest: &Digest) -> String {
    format!("{PLAIN_LAYERS}/sha256/{}", digest.sha256())
}

/// Returns the file of an OCI image layout with this digest.
#[must_use]
pub fn blob(digest: &Digest) -> PathBuf {
    Path::new(BLOBS).join("sha256").join(digest.sha256().as_str())
}

/// Returns the directory with the files of all these layers together, base first, by their digests in the manifest; `None` without a layer.
/// The id is like a chain ID (OCI image specification 1.1), but of compressed layers, and that of one layer is a digest of its digest.
#[must_use]
pub fn chain(layers: &[Digest], sha256: impl Fn(&[u8]) -> Sha256) -> Option<String> {
    let mut id: Option<Digest> = None;
    for layer in layers {
        let text = id.map_or_else(|| layer.to_string(), |below| format!("{below} {layer}"));
        id = Some(Digest::from(sha256(text.as_bytes())));
    }
    let hex = id?.sha256().as_str().to_owned();
    Some(format!("{CHAINS}/{}/{hex}", hex.get(..2).unwrap_or_default()))
}

/// Returns the list of layers in the store for Podman.
#[must_use]
pub fn podman_layers() -> PathBuf {
    Path::new(PODMAN_STORE).join(LAYERS_JSON)
}

/// Returns the file with the layers below a layer in the store for Podman.
#[must_use]
pub fn podman_lower(layer_id: &str) -> PathBuf {
    Path::new(PODMAN_STORE).join(layer_directory(layer_id)).join(LOWER)
}

/// Returns the file with the manifest of an image, by its public name (a path).
#[must_use]
pub fn manifest(name: &Path) -> PathBuf {
    Path::new(METADATA).join(name).join(MANIFEST)
}

/// Returns the places in which the image may be that a reference means, in order. A manifest's digest is in none.
#[must_use]
pub fn places(reference: &ImageRef) -> Vec<String> {
    match reference {
        ImageRef::Id(id) => vec![flat(id)],
        ImageRef::Digest(_) => Vec::new(),
        ImageRef::Name(names) => names
            .iter()
            .flat_map(|name| {
                let name = name.to_string();
                let on_hub = name.strip_prefix(DEFAULT_REGISTRY).map(|rest| format!("{DOCKER_HUB}{rest}"));
                [Some(name), on_hub].into_iter().flatten()
            })
            .collect(),
    }
}

/// Returns the directory of an unpacked image.
#[must_use]
pub fn flat(id: &ImageId) -> String {
    format!("{FLAT}/{}/{id}", id.as_str().get(..2).unwrap_or_default())
}

/// Returns the name of the image with this public name, as Podman would have it; `None` if it is no name of an image.
#[must_use]
pub fn image_name(public: &str) -> Option<ImageName> {
    let of_hub = public.strip_prefix(DOCKER_HUB).filter(|rest| rest.starts_with('/'));
    let name = of_hub.map_or_else(|| public.to_owned(), |rest| format!("{DEFAULT_REGISTRY}{rest}"));
    ImageName::for_storing(&name).ok()
}

/// Returns `true` for the names of directories, at the repository's root, that are no parts of public names.
#[must_use]
pub fn is_own(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || [PODMAN_STORE, BLOBS, PLAIN_LAYERS].iter().any(|own| name == *own)
}

/// Returns the file with an image's configuration.
#[must_use]
pub fn configuration(id: &ImageId) -> PathBuf {
    Path::new(PODMAN_STORE).join(image_directory(id)).join(big_data_file(&Digest::from(*id).to_string()))
}

/// Returns the root of the repository and the id of the image, if the path is that of an unpacked image.
#[must_use]
pub fn flat_image(path: &Path) -> Option<(&Path, ImageId)> {
    let id = path.file_name()?.to_str()?;
    let flat = path.parent()?.parent()?;
    Some((flat.parent().filter(|_| flat.ends_with(FLAT))?, ImageId::parse(id)?))
}

/// Returns the variables, `NAME=VALUE`, that Apptainer's script of an image sets to constants: the others depend on the shell.
#[must_use]
pub fn apptainer_variables(script: &str) -> Vec<String> {
    script.lines().filter_map(variable).collect()
}

/// Reads `export NAME="VALUE"` or `export NAME="${NAME:-"VALUE"}"`.
fn variable(line: &str) -> Option<String> {
    let (name, value) = line.trim().strip_prefix("export ")?.split_once('=')?;
    let quoted = |text: &str| -> Option<String> { Some(text.strip_prefix('"')?.strip_suffix('"')?.to_owned()) };
    let value = quoted(value)?;
    let value = match value.strip_prefix(&format!("${{{name}:-")) {
        Some(default) => {
            let default = default.strip_suffix('}')?;
            quoted(default).unwrap_or_else(|| default.to_owned())
        }
        None => value,
    };
    (!value.contains(['$', '`', '\\', '"'])).then(|| format!("{name}={value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpacked_image_is_known_by_its_path() {
        let id = "ab".repeat(32);
        let path = format!("/cvmfs/unpacked/.flat/ab/{id}");
        assert_eq!(flat_image(Path::new(&path)), Some((Path::new("/cvmfs/unpacked"), id.parse().unwrap())));
        for other in ["/", "/a/b", &format!("/cvmfs/unpacked/.layers/ab/{id}"), "/cvmfs/.flat/ab/short"] {
            assert_eq!(flat_image(Path::new(other)), None, "{other}");
        }
        assert_eq!(
            manifest(Path::new("registry.example.org/python:3")),
            Path::new(".metadata/registry.example.org/python:3/manifest.json")
        );
    }

    #[test]
    fn a_chain_of_layers_has_an_id() {
        let digests = ["ab", "cd"].map(|part| Digest::parse(&format!("sha256:{}", part.repeat(32))).unwrap());
        let mut hashed = std::cell::RefCell::new(Vec::new());
        let sha256 = |bytes: &[u8]| {
            hashed.borrow_mut().push(String::from_utf8(bytes.to_vec()).unwrap());
            Sha256::parse(&"ef".repeat(32)).unwrap()
        };
        assert_eq!(chain(&[], sha256), None);
        assert_eq!(chain(&digests, sha256), Some(format!(".chains/ef/{}", "ef".repeat(32))));
        let below = format!("sha256:{} {}", "ef".repeat(32), digests[1]);
        assert_eq!(*hashed.get_mut(), [digests[0].to_string(), below]);
        assert_eq!(plain_layer(&digests[0]), format!("layers/sha256/{}", "ab".repeat(32)));
        assert!(is_own(OsStr::new("blobs")) && is_own(OsStr::new("layers")) && !is_own(OsStr::new("quay.io")));
    }

    #[test]
    fn a_reference_has_places() {
        let places = |text: &str| places(&ImageRef::parse(text).unwrap());
        assert_eq!(places("quay.io/a/b:1"), ["quay.io/a/b:1"]);
        assert_eq!(
            places("python:3"),
            ["localhost/python:3", "docker.io/library/python:3", "registry.hub.docker.com/library/python:3"]
        );
        let id = "ab".repeat(32);
        assert_eq!(places(&id), [format!(".flat/ab/{id}")]);
        assert!(places(&format!("a@sha256:{id}")).is_empty());
    }

    #[test]
    fn a_public_name_is_a_name_of_an_image() {
        let name = |public: &str| image_name(public).map(|name| name.to_string());
        assert_eq!(name("registry.hub.docker.com/library/python:3").unwrap(), "docker.io/library/python:3");
        assert_eq!(name("registry.example.org/a/b:1").unwrap(), "registry.example.org/a/b:1");
        assert_eq!(name("UPPER"), None);
        assert!(is_own(OsStr::new(".flat")) && is_own(OsStr::new("podmanStore")) && !is_own(OsStr::new("quay.io")));
    }

    #[test]
    fn variables_of_apptainers_script() {
        let script = "#!/bin/sh\nexport PATH=\"/opt/bin:/usr/bin\"\nexport LANG=\"${LANG:-\"C.UTF-8\"}\"\n\
                      export EMPTY=\"${EMPTY:-}\"\nexport BAD=\"$(id)\"\nexport WORSE=\"${WORSE:-\"\\\\\\\"\"}\"\necho PATH\n";
        assert_eq!(apptainer_variables(script), ["PATH=/opt/bin:/usr/bin", "LANG=C.UTF-8", "EMPTY="]);
    }
}
