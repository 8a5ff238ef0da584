//! Tests of the metadata of step stores.

use parallax_format::record::{LayerRecord, VERSION};
use parallax_store::hash::link_of_layer;

use super::*;
use crate::identity::{Ids, SubordinateRange};

fn image() -> ImageRecord {
    let layer = |n: u8| LayerRecord {
        id: format!("{n:064x}").parse().unwrap(),
        link: link_of_layer(&n.to_string()),
        diff_id: format!("{:064x}", u16::from(n) + 256).parse().unwrap(),
        size: 100 * u64::from(n),
        format: LayerFormat::Squashfs,
        squashfs_size: 1,
        squashfs_sha256: format!("{n:064x}").parse().ok(),
        max_uid: 0,
        max_gid: 0,
        sidecar: false,
        tree: None,
        parts: Vec::new(),
    };
    ImageRecord {
        version: VERSION,
        id: "ab".repeat(32).parse().unwrap(),
        digest: format!("sha256:{}", "cd".repeat(32)).parse().unwrap(),
        other_digests: Vec::new(),
        names: vec!["localhost/a:latest".into()],
        created: "2026-01-01T00:00:00Z".into(),
        manifest: "{}".into(),
        config: "{\"a\":1}".into(),
        layers: vec![layer(1), layer(2), layer(3)],
    }
}

fn identity() -> Identity {
    let ids = || Ids { own: 1001, subordinate: vec![SubordinateRange { start: 100_000, count: 65_536 }] };
    Identity { name: "u1".into(), home: None, users: ids(), groups: ids(), subid_module: None }
}

fn text<'a>(store: &'a StepStore, path: &str) -> &'a str {
    let (_, bytes) = store.files.iter().find(|(name, _)| name == path).unwrap();
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn both_chains_lie_over_the_same_layers() {
    let store = StepStore::new(&image(), &identity(), Form::Mounts(&[NamespaceKind::Plain, NamespaceKind::KeepId]));
    assert_eq!(store.mounts.len(), 6);
    let images: Vec<Image> = serde_json::from_str(text(&store, IMAGES_JSON)).unwrap();
    let layers: Vec<Layer> = serde_json::from_str(text(&store, LAYERS_JSON)).unwrap();
    let find = |id: &LayerId| layers.iter().find(|layer| layer.id == *id).unwrap();
    let (plain, mapped) = (find(&images[0].layer), find(&images[0].mapped_layers[0]));
    assert!(plain.uidmap.is_empty());
    assert_eq!(mapped.uidmap, identity().users.podman_keep_id_map());
    assert_eq!((plain.diff_size, mapped.diff_size), (300, 0));
    assert_eq!(find(plain.parent.as_ref().unwrap()).diff_size, 200);
}

#[test]
fn a_layer_names_those_below_it_nearest_first() {
    let store = StepStore::new(&image(), &identity(), Form::Mounts(&[NamespaceKind::Plain]));
    let top = &image().layers[2].id;
    assert_eq!(text(&store, &format!("overlay/{top}/lower")), "l/P1:l/P0");
    assert_eq!(text(&store, &format!("overlay/{top}/link")), "P2");
    assert!(store.links.contains(&("overlay/l/P2".into(), format!("../{top}/diff"))));
}

#[test]
fn files_lie_beside_the_links_and_nothing_is_mounted() {
    let store = StepStore::new(&image(), &identity(), Form::Files);
    assert!(store.mounts.is_empty());
    let places: Vec<_> = store.sidecars.iter().map(|file| (file.layer, file.path.as_str())).collect();
    assert_eq!(places, [(0, "overlay/l/P0.squash"), (1, "overlay/l/P1.squash"), (2, "overlay/l/P2.squash")]);
    let images: Vec<Image> = serde_json::from_str(text(&store, IMAGES_JSON)).unwrap();
    assert_eq!((images[0].layer.as_str(), images[0].mapped_layers.len()), (image().layers[2].id.as_str(), 0));
}

#[test]
fn podman_finds_the_archives_of_mounted_layers() {
    let both = &[NamespaceKind::Plain, NamespaceKind::KeepId];
    let store = StepStore::new(&image(), &identity(), Form::Mounts(both)).with_tar_split(&image(), "/s");
    let links: Vec<_> = store.links.iter().filter(|(path, _)| path.starts_with("overlay-layers/")).collect();
    assert_eq!(links.len(), 6);
    let top = &image().layers[2];
    let data = format!("/s/parallax/layers/{}.tar-split.gz", top.diff_id);
    assert!(links.contains(&&(format!("overlay-layers/{}.tar-split.gz", top.id), data.clone())));
    assert_eq!(links.iter().filter(|(_, target)| *target == data).count(), 2);
    let store = StepStore::new(&image(), &identity(), Form::Files).with_tar_split(&image(), "/s");
    let path = format!("overlay-layers/{}.tar-split.gz", top.id);
    assert!(store.links.contains(&(path.clone(), format!("/s/{path}"))));
}

#[test]
fn a_layer_that_comes_again_is_named_once() {
    let mut image = image();
    let again = image.layers[0].diff_id;
    image.layers[2].diff_id = again;
    assert_eq!(below(&image.layers), [1]);
    assert_eq!(below(&image.layers[..2]), [0]);
    let store = StepStore::new(&image, &identity(), Form::Mounts(&[NamespaceKind::Plain]));
    assert_eq!(text(&store, &format!("overlay/{}/lower", image.layers[2].id)), "l/P1");
    assert_eq!(store.mounts.len(), 3);
}

#[test]
fn an_image_of_one_layer_again_and_again_has_nothing_below() {
    let mut image = image();
    let all = image.layers[0].diff_id;
    for layer in &mut image.layers {
        layer.diff_id = all;
    }
    assert!(below(&image.layers).is_empty());
}

#[test]
fn one_chain_alone_is_the_images_own() {
    let store = StepStore::new(&image(), &identity(), Form::Mounts(&[NamespaceKind::KeepId]));
    let images: Vec<Image> = serde_json::from_str(text(&store, IMAGES_JSON)).unwrap();
    assert!(images[0].mapped_layers.is_empty());
    assert_eq!(store.mounts.len(), 3);
    assert!(store.mounts.iter().all(|mount| mount.directory.ends_with(images[0].layer.as_str()) == (mount.layer == 2)));
}

#[test]
fn layers_without_metadata_come_topmost_first_and_once() {
    let mut image = image();
    let store = StepStore::of_layers(&image, Form::Mounts(&[NamespaceKind::KeepId]));
    assert_eq!(store.plain_layers, ["l/L2", "l/L1", "l/L0"]);
    assert_eq!(store.directories, ["overlay", "overlay/l", "overlay/l/L2", "overlay/l/L1", "overlay/l/L0"]);
    let first = LayerMount { layer: 2, kind: NamespaceKind::KeepId, directory: "overlay/l".into(), name: "L2".into() };
    assert_eq!(store.mounts.first(), Some(&first));
    assert!(store.files.is_empty() && store.links.is_empty());
    image.layers[0] = image.layers[2].clone();
    let store = StepStore::of_layers(&image, Form::Files);
    assert_eq!(store.plain_layers, ["l/L2", "l/L1"]);
    assert!(store.mounts.is_empty());
    assert_eq!(store.sidecars.first(), Some(&Sidecar { layer: 2, path: "overlay/l/L2.squash".into() }));
}

#[test]
fn directories_come_after_their_parents() {
    let store = StepStore::new(&image(), &identity(), Form::Mounts(&[NamespaceKind::Plain]));
    for (index, directory) in store.directories.iter().enumerate() {
        if let Some((parent, _)) = directory.rsplit_once('/') {
            assert!(store.directories[..index].iter().any(|d| d == parent), "{directory}");
        }
    }
}
