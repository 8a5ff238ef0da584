use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use parallax_format::ImageRef;
use serde_json::{Value, json};

use super::*;
use crate::testing::{Foreign, foreign_image, image, publish, squashfs, store};

fn find(root: &Path, text: &str) -> Result<Option<ImageRecord>, OpenError> {
    let found = TrustedStore::open(root).unwrap().resolve_unrecorded(&ImageRef::parse(text).unwrap())?;
    Ok(found.map(|found| match found {
        Unrecorded::Record(record) => *record,
        Unrecorded::Unpacked(directory) => panic!("{} is no file", directory.display()),
    }))
}

#[test]
fn images_of_both_tools_are_found_by_name_id_and_digest() {
    for tool in [Foreign::GoTool, Foreign::PodmanHpc] {
        let directory = tempfile::tempdir().unwrap();
        let id = foreign_image(directory.path(), tool, "app:1");
        let record = find(directory.path(), "app:1").unwrap().unwrap();
        for text in [id.to_string(), format!("app@{}", record.digest)] {
            assert_eq!(find(directory.path(), &text).unwrap().as_ref(), Some(&record), "{text}");
        }
        assert!(find(directory.path(), "app:2").unwrap().is_none());
        assert_eq!((record.id.as_str(), record.names.as_slice()), (id.as_str(), &["localhost/app:1".to_owned()][..]));
        // One file holds all of it.
        assert_eq!(record.layers.len(), 1);
        let mut bytes = Vec::new();
        let store = TrustedStore::open(directory.path()).unwrap();
        store.open_layer(&record.layers[0]).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, squashfs("app:1"));
        assert!(record.layers[0].file_path().starts_with("overlay/l/"));
    }
}

#[test]
fn a_chain_with_lower_has_a_file_for_each_layer() {
    let (_directory, store) = store();
    let record = publish(&store, &image("config", "app:1", &["base", "top"]), &["base", "top"]).unwrap();
    // Without its record it is as if another tool had brought it, but for the index.
    fs::remove_file(store.root().join(IndexPath::record(&record.id))).unwrap();
    let found = find(store.root(), "app:1");
    // The test's manifest is none.
    assert!(found.unwrap_err().to_string().contains("its manifest is corrupt"));
    let path = store.root().join("overlay-images").join(record.id.as_str());
    let config = big_data_file(&Digest::from(record.id).to_string());
    assert!(path.join(&config).is_file());
    fs::write(
        path.join("manifest"),
        json!({"config": {"digest": Digest::from(record.id), "size": 2}, "layers": []}).to_string(),
    )
    .unwrap();
    let layers = find(store.root(), "app:1").unwrap().unwrap().layers;
    let ids: Vec<_> = layers.iter().map(|layer| (layer.id.as_str(), layer.link.as_str())).collect();
    let expected: Vec<_> = record.layers.iter().map(|layer| (layer.id.as_str(), layer.link.as_str())).collect();
    assert_eq!(ids, expected);
}

#[test]
fn what_is_ours_is_not_foreign() {
    let (_directory, store) = store();
    let id = publish(&store, &image("config", "app:1", &["base"]), &["base"]).unwrap().id;
    assert!(find(store.root(), &id).unwrap().is_none());
    assert!(TrustedStore::open(store.root()).unwrap().foreign_images().unwrap().is_empty());
}

#[test]
fn damage_and_files_that_lead_out_are_told() {
    type Damage = fn(&Path, &LayerRecord);
    let damages: [(&str, Damage); 7] = [
        ("is missing", |root, layer| fs::remove_file(root.join(layer.file_path())).unwrap()),
        ("no SquashFS superblock", |root, layer| {
            fs::write(root.join(format!("squash/{}.squash", layer.link.as_str())), "hsqs").unwrap();
        }),
        ("leads out of the store", |root, layer| {
            fs::remove_file(root.join(layer.file_path())).unwrap();
            symlink("/etc/passwd", root.join(layer.file_path())).unwrap();
        }),
        ("leads out of the store", |root, layer| {
            fs::remove_file(root.join(layer.file_path())).unwrap();
            symlink("../../../../../etc/passwd", root.join(layer.file_path())).unwrap();
        }),
        ("link is missing", |root, layer| {
            fs::remove_file(root.join("overlay").join(layer.id.as_str()).join("link")).unwrap();
        }),
        ("a link has 26", |root, layer| {
            fs::write(root.join("overlay").join(layer.id.as_str()).join("link"), "../../../etc/passwd").unwrap();
        }),
        ("is corrupt", |root, _| fs::write(root.join(IMAGES_JSON), "[{").unwrap()),
    ];
    for (expected, damage) in damages {
        let directory = tempfile::tempdir().unwrap();
        foreign_image(directory.path(), Foreign::GoTool, "app:1");
        let record = find(directory.path(), "app:1").unwrap().unwrap();
        damage(directory.path(), &record.layers[0]);
        let error = find(directory.path(), "app:1").unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn a_store_of_many_and_odd_entries_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let id = foreign_image(directory.path(), Foreign::GoTool, "app:1");
    let path = directory.path().join(IMAGES_JSON);
    let mut list: Vec<Value> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    list.push(json!({"id": "../../etc", "names": ["app:1"], "layer": "x"}));
    list.push(json!({"id": "b".repeat(64), "names": null, "big-data-digests": null, "odd": [{}]}));
    fs::write(&path, serde_json::to_vec(&list).unwrap()).unwrap();
    assert_eq!(find(directory.path(), "app:1").unwrap().unwrap().id, id);
    for empty in ["", "null", "[]"] {
        fs::write(&path, empty).unwrap();
        assert!(find(directory.path(), "app:1").unwrap().is_none());
    }
}

#[test]
fn sizes_are_those_of_podmans_list_where_it_knows_more() {
    let directory = tempfile::tempdir().unwrap();
    foreign_image(directory.path(), Foreign::PodmanHpc, "app:1");
    let store = TrustedStore::open_lenient(directory.path()).unwrap();
    let images = store.foreign_images().unwrap();
    let sizes = store.layer_sizes().unwrap();
    assert_eq!(store.foreign_record(&images[0], &sizes).unwrap().layers[0].size, 3000);
}
