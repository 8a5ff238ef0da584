//! The files of the store (pure): two layers for each kind of user namespace, and the image.

use std::path::Path;

use parallax_format::digest::{DiffId, Digest, ImageId, LayerId};
use parallax_format::layout::{self, IMAGES_JSON, IMAGES_LOCK, LAYERS_JSON, LAYERS_LOCK};
use parallax_format::oci::{CONFIGURATION_TYPE, LAYER_TYPE, MANIFEST_TYPE, Platform};
use parallax_format::podman::{BigData, IdMapEntry, Image, LOCK_TOKEN_BYTES, Layer};
use parallax_protocol::step_file::IdMaps;
use serde_json::json;

use crate::digest::sha256;
use crate::tree::Settings;

/// When the image was built: nobody knows.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// A file of the store and its contents.
type File = (String, Vec<u8>);

/// The directory and the layer with room above it, for one kind of user namespace.
#[derive(Debug)]
pub(super) struct Chain {
    /// Podman's ids of the two layers, base first.
    ids: [LayerId; 2],
    /// Their short names.
    names: [&'static str; 2],
    /// The map of the containers that use them; none for Podman's default.
    maps: Option<IdMaps>,
}

impl Chain {
    /// The chain for containers whose root is the user.
    pub(super) fn plain(place: &Path) -> Self {
        Self { ids: diff_ids(place).map(|id| LayerId::from(*id)), names: ["P0", "P1"], maps: None }
    }

    /// The chain for containers in which the user keeps their id.
    pub(super) fn keep_id(place: &Path, maps: &IdMaps) -> Self {
        let ids = diff_ids(place).map(|id| sha256(format!("keep-id {id}").as_bytes()).into());
        Self { ids, names: ["K0", "K1"], maps: Some(maps.clone()) }
    }

    pub(super) fn directories(&self) -> Vec<String> {
        self.ids.iter().map(|id| layout::layer_directory(id)).collect()
    }

    /// The place of the link to the image's directory.
    pub(super) fn base_files(&self) -> String {
        format!("{}/{}", layout::layer_directory(&self.ids[0]), layout::DIFF)
    }

    /// The directory of the layer with room.
    pub(super) fn room_files(&self) -> String {
        format!("{}/{}", layout::layer_directory(&self.ids[1]), layout::DIFF)
    }

    /// The ids of the container's root in the namespace in which Podman runs, if it is not root there.
    pub(super) fn root(&self) -> Option<(u32, u32)> {
        let maps = self.maps.as_ref()?;
        let root = |map: &[IdMapEntry]| map.iter().find(|entry| entry.container_id == 0).map(|entry| entry.host_id);
        Some((root(&maps.users)?, root(&maps.groups)?))
    }

    /// The short names' links and their targets.
    pub(super) fn links(&self) -> Vec<(String, String)> {
        self.ids.iter().zip(self.names).map(|(id, name)| (layout::link(name), layout::link_target(id))).collect()
    }

    pub(super) fn files(&self) -> Vec<File> {
        let file =
            |id: &LayerId, name: &str, text: String| (format!("{}/{name}", layout::layer_directory(id)), text.into());
        let [base, room] = &self.ids;
        vec![
            file(base, layout::LINK, self.names[0].to_owned()),
            file(room, layout::LINK, self.names[1].to_owned()),
            file(room, layout::LOWER, layout::lower(self.names[0])),
        ]
    }

    fn entries(&self) -> [Layer; 2] {
        let [base, room] = self.ids;
        let (users, groups) = self.maps.clone().map_or((Vec::new(), Vec::new()), |maps| (maps.users, maps.groups));
        [(base, None), (room, Some(base))].map(|(id, parent)| Layer {
            id,
            parent,
            created: CREATED.to_owned(),
            // A digest without a size has Podman walk the whole directory; a size of 0 counts as one that is known.
            diff_digest: Digest::from(*id),
            diff_size: 0,
            uidmap: users.clone(),
            gidmap: groups.clone(),
        })
    }
}

/// The digests of the two layers' contents, of which there are none: what differs between directories.
fn diff_ids(place: &Path) -> [DiffId; 2] {
    let path = place.as_os_str().as_encoded_bytes();
    [b"directory ".as_slice(), b"room of directory "].map(|what| sha256(&[what, path].concat()).into())
}

/// The image, as Podman reads it.
#[derive(Debug)]
pub(super) struct Described {
    /// Its id: the repository's, else the digest of the configuration.
    pub(super) id: ImageId,
    names: Vec<String>,
    manifest: String,
    configuration: String,
}

impl Described {
    /// Describes the image that is a directory. The configuration has two layers, as the store does.
    pub(super) fn new(place: &Path, settings: &Settings, names: Vec<String>) -> Self {
        let diff_ids = diff_ids(place).map(|id| Digest::from(id).to_string());
        let Platform { os, architecture, .. } = Platform::of_this_machine();
        let configuration = json!({
            "created": CREATED, "os": os, "architecture": architecture, "config": settings.execution,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        })
        .to_string();
        let digest = sha256(configuration.as_bytes());
        let layers = diff_ids.map(|digest| json!({ "mediaType": LAYER_TYPE, "digest": digest, "size": 0 }));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "layers": layers,
            "config": { "mediaType": CONFIGURATION_TYPE, "digest": Digest::from(digest).to_string(), "size": configuration.len() },
        })
        .to_string();
        Self { id: settings.id.unwrap_or_else(|| digest.into()), names, manifest, configuration }
    }

    fn data<'a>(&'a self, key: &'a str) -> [BigData<'a>; 2] {
        let data = |key, text: &'a str| BigData { key, bytes: text.as_bytes(), digest: sha256(text.as_bytes()).into() };
        [data("manifest", &self.manifest), data(key, &self.configuration)]
    }

    fn configuration_key(&self) -> String {
        Digest::from(sha256(self.configuration.as_bytes())).to_string()
    }

    /// The files of the manifest and the configuration.
    pub(super) fn files(&self) -> Vec<File> {
        let (key, directory) = (self.configuration_key(), layout::image_directory(&self.id));
        self.data(&key).map(|data| (format!("{directory}/{}", data.file_name()), data.bytes.to_vec())).into()
    }

    fn entry(&self, tops: &[LayerId]) -> Option<Image> {
        let (key, (top, mapped)) = (self.configuration_key(), tops.split_first()?);
        let digest = Digest::from(sha256(self.manifest.as_bytes()));
        let image = Image::new(self.id, digest, self.names.clone(), *top, CREATED, &self.data(&key));
        Some(Image { mapped_layers: mapped.to_vec(), ..image })
    }
}

/// Returns Podman's lists and their locks.
pub(super) fn lists(chains: &[Chain], image: Option<&Described>) -> Vec<File> {
    let tops: Vec<LayerId> = chains.iter().map(|chain| chain.ids[1]).collect();
    let layers: Vec<Layer> = chains.iter().flat_map(Chain::entries).collect();
    let images: Vec<Image> = image.and_then(|image| image.entry(&tops)).into_iter().collect();
    let lock = || vec![b'p'; LOCK_TOKEN_BYTES];
    // Texts and numbers only: this cannot fail.
    let (layers, images) = (serde_json::to_vec(&layers), serde_json::to_vec(&images));
    vec![
        (LAYERS_JSON.to_owned(), layers.unwrap_or_default()),
        (IMAGES_JSON.to_owned(), images.unwrap_or_default()),
        (LAYERS_LOCK.to_owned(), lock()),
        (IMAGES_LOCK.to_owned(), lock()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps() -> IdMaps {
        let map = |own| {
            vec![
                IdMapEntry { container_id: 0, host_id: 1, size: own },
                IdMapEntry { container_id: own, host_id: 0, size: 1 },
            ]
        };
        IdMaps { users: map(1001), groups: map(1002) }
    }

    #[test]
    fn podman_finds_the_image_in_both_kinds_of_namespaces() {
        let place = Path::new("/trees/a");
        let chains = [Chain::plain(place), Chain::keep_id(place, &maps())];
        assert_eq!((chains[0].root(), chains[1].root()), (None, Some((1, 1))));
        let image = Described::new(place, &Settings::default(), vec!["localhost/a:latest".to_owned()]);
        let files = lists(&chains, Some(&image));
        let read = |name: &str| -> serde_json::Value {
            serde_json::from_slice(&files.iter().find(|(file, _)| file == name).unwrap().1).unwrap()
        };
        let (images, layers) = (read(IMAGES_JSON), read(LAYERS_JSON));
        assert_eq!(images[0]["layer"], layers[1]["id"]);
        assert_eq!(images[0]["mapped-layers"][0], layers[3]["id"]);
        assert_eq!((&layers[1]["parent"], &layers[3]["parent"]), (&layers[0]["id"], &layers[2]["id"]));
        assert_eq!(layers[3]["uidmap"][1]["container_id"], 1001);
        // The id is that of the configuration that the manifest names.
        let manifest: serde_json::Value = serde_json::from_str(&image.manifest).unwrap();
        assert_eq!(manifest["config"]["digest"], format!("sha256:{}", image.id));
        assert_eq!(images[0]["big-data-names"][1], format!("sha256:{}", image.id));
        assert!(Chain::plain(Path::new("/trees/b")).ids != chains[0].ids);
    }

    #[test]
    fn an_image_of_a_repository_keeps_its_id() {
        let id: ImageId = "ab".repeat(32).parse().unwrap();
        let image = Described::new(Path::new("/x"), &Settings { id: Some(id), ..Settings::default() }, Vec::new());
        assert_eq!(image.id, id);
        assert_ne!(image.configuration_key(), Digest::from(id).to_string());
        assert!(image.files().iter().all(|(file, _)| file.starts_with(&layout::image_directory(&id))));
    }
}
