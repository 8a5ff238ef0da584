use serde_json::json;

use super::*;
use parallax_format::layout::{IMAGES_JSON, IMAGES_LOCK, LAYERS_JSON, LAYERS_LOCK};
use parallax_format::podman::LOCK_TOKEN_BYTES;

use crate::hash::sha256;
use crate::read::list;
use crate::testing::{image, json, publish, store};

#[test]
fn a_published_image_is_found_by_name_digest_and_id() {
    let (_directory, store) = store();
    let new = image("config", "app:1", &["base", "top"]);
    let before = fs::read(store.root().join(IMAGES_LOCK)).unwrap();
    let record = publish(&store, &new, &["base", "top"]).unwrap();
    assert_eq!(record.names, ["localhost/app:1"]);
    assert_eq!(store.image(&new.id).unwrap().unwrap(), record);
    assert_eq!(store.id_of_name(&new.name).unwrap(), new.id);
    for digest in [new.digest, sha256(b"index of config").into()] {
        assert_eq!(store.id_of_digest(&digest).unwrap(), new.id);
    }
    for lock in [IMAGES_LOCK, LAYERS_LOCK] {
        assert_eq!(fs::metadata(store.root().join(lock)).unwrap().len(), LOCK_TOKEN_BYTES as u64);
    }
    assert_ne!(fs::read(store.root().join(IMAGES_LOCK)).unwrap(), before);
    let links = store.root().join(layout::LINKS);
    for layer in &record.layers {
        assert!(links.join(layer.link.as_str()).is_dir());
        assert!(links.join(format!("{}.squash", layer.link.as_str())).is_file());
    }
    let lower = fs::read_to_string(store.root().join("overlay").join(record.layers[1].id).join("lower")).unwrap();
    assert_eq!(lower, format!("l/{}", record.layers[0].link.as_str()));
    assert_eq!(json(&store, LAYERS_JSON)[1]["parent"], json!(record.layers[0].id));
    assert_eq!(fs::read_dir(store.temporary()).unwrap().count(), 0);
}

#[test]
fn a_name_moves_to_the_newer_image_and_the_old_one_stays() {
    let (_directory, store) = store();
    let old = image("old", "app:1", &["base"]);
    publish(&store, &old, &["base"]).unwrap();
    let new = image("new", "app:1", &["base", "top"]);
    publish(&store, &new, &["base", "top"]).unwrap();
    assert_eq!(store.id_of_name(&new.name).unwrap(), new.id);
    let images = json(&store, IMAGES_JSON);
    assert_eq!((&images[0]["names"], &images[1]["names"]), (&json!([]), &json!(["localhost/app:1"])));
    assert_eq!(store.image(&old.id).unwrap().unwrap().names, Vec::<String>::new());
    assert_eq!(json(&store, LAYERS_JSON).as_array().unwrap().len(), 2);
    let listing = list(store.root()).unwrap();
    let names: Vec<_> = listing.images.iter().map(|image| image.names.len()).collect();
    assert_eq!(names, [1, 0]);
}

#[test]
fn what_others_wrote_is_kept() {
    let (_directory, store) = store();
    let theirs = json!([{"id": "x", "names": ["localhost/app:1"], "layer": "y", "odd": {"a": [1]}}]);
    fs::write(store.root().join(IMAGES_JSON), theirs.to_string()).unwrap();
    fs::write(store.root().join(LAYERS_JSON), json!([{"id": "y", "flags": {"z": true}}]).to_string()).unwrap();
    publish(&store, &image("config", "app:1", &["base"]), &["base"]).unwrap();
    let images = json(&store, IMAGES_JSON);
    assert_eq!(images[0], json!({"id": "x", "names": [], "layer": "y", "odd": {"a": [1]}}));
    assert_eq!(json(&store, LAYERS_JSON)[0], json!({"id": "y", "flags": {"z": true}}));
}

#[test]
fn a_corrupt_list_stops_the_writer_and_is_left_alone() {
    let (_directory, store) = store();
    let new = image("config", "app:1", &["base"]);
    fs::write(store.root().join(IMAGES_JSON), "{").unwrap();
    assert!(matches!(publish(&store, &new, &["base"]), Err(StoreError::Corrupt { .. })));
    assert_eq!(fs::read(store.root().join(IMAGES_JSON)).unwrap(), b"{");
    assert!(store.image(&new.id).unwrap().is_none());
}

#[test]
fn a_layer_is_taken_once_and_again_when_its_file_is_gone() {
    let (_directory, store) = store();
    let new = image("config", "app:1", &["same"]);
    publish(&store, &new, &["same"]).unwrap();
    let first = store.layer(&new.diff_ids[0]).unwrap().unwrap();
    publish(&store, &image("other", "app:2", &["same"]), &["same"]).unwrap();
    assert_eq!(store.layer(&new.diff_ids[0]).unwrap().unwrap(), first);
    fs::remove_file(store.root().join(LayerFile::squashfs_path(&first.diff_id))).unwrap();
    assert!(store.layer(&first.diff_id).unwrap().is_none());
    assert!(store.image(&new.id).unwrap().is_none());
    assert!(
        matches!(store.publish(&new, &[], &crate::OwnFiles::new()), Err(StoreError::LayerGone(id)) if id == first.diff_id)
    );
    publish(&store, &new, &["same"]).unwrap();
    assert_eq!(store.image(&new.id).unwrap().unwrap().id, new.id);
}

#[test]
fn threads_publish_at_once_and_nothing_is_lost() {
    let (_directory, store) = store();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let store = &store;
            scope.spawn(move || {
                let new = image(&format!("config {number}"), &format!("app:{number}"), &["base", "top"]);
                publish(store, &new, &["base", "top"]).unwrap();
            });
        }
    });
    assert_eq!(list(store.root()).unwrap().images.len(), 8);
    assert_eq!(json(&store, IMAGES_JSON).as_array().unwrap().len(), 8);
    assert_eq!(json(&store, LAYERS_JSON).as_array().unwrap().len(), 2);
}
