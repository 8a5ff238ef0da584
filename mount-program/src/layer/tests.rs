use std::os::unix::fs::symlink;

use super::*;

const LINK: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// A store with one layer and no sidecar.
fn store() -> tempfile::TempDir {
    let store = tempfile::tempdir().unwrap();
    fs::create_dir_all(store.path().join("overlay/l")).unwrap();
    fs::create_dir_all(store.path().join("overlay/id/diff")).unwrap();
    fs::write(store.path().join("overlay/id/link"), LINK).unwrap();
    symlink("../id/diff", store.path().join("overlay/l").join(LINK)).unwrap();
    store
}

fn superblock(used: u64) -> Vec<u8> {
    let mut bytes = vec![0; 96];
    bytes[..4].copy_from_slice(MAGIC);
    bytes[40..48].copy_from_slice(&used.to_le_bytes());
    bytes
}

fn both_forms(store: &tempfile::TempDir) -> [PathBuf; 2] {
    [store.path().join("overlay/l").join(LINK), store.path().join("overlay/id/diff")]
}

fn sidecar(store: &tempfile::TempDir) -> PathBuf {
    store.path().join("overlay/l").join(format!("{LINK}.squash"))
}

#[test]
fn a_side_car_is_found_from_both_forms_whether_file_or_link() {
    let store = store();
    fs::write(sidecar(&store), superblock(96)).unwrap();
    let found = both_forms(&store).map(|lower| layer(&lower).unwrap());
    assert_eq!(found[0].source.sidecar().unwrap().path, sidecar(&store));
    assert_eq!(found[0], found[1]);

    fs::create_dir(store.path().join("squash")).unwrap();
    fs::rename(sidecar(&store), store.path().join("squash/file")).unwrap();
    symlink("../../squash/file", sidecar(&store)).unwrap();
    assert_eq!(both_forms(&store).map(|lower| layer(&lower).unwrap().identity), found.map(|layer| layer.identity));
}

#[test]
fn chunks_are_taken_where_there_is_no_file() {
    let store = store();
    // Beside the file that was given up, and in the layer's directory.
    let layers = store.path().join(layout::LAYERS);
    fs::create_dir_all(&layers).unwrap();
    symlink("../../parallax/layers/1.squash", sidecar(&store)).unwrap();
    for lower in both_forms(&store) {
        assert!(matches!(layer(&lower), Err(LayerError::Missing { .. })));
    }
    let chunks = |lower: &Path| layer(lower).unwrap().source.sidecar().unwrap().chunks.clone().unwrap();
    for index in [store.path().join("overlay/id/parallax.caibx"), layers.join("1.caibx")] {
        fs::write(&index, "index").unwrap();
        for lower in both_forms(&store) {
            let found = chunks(&lower);
            let paths =
                [found.index, found.store.parent().unwrap().to_owned()].map(|path| path.canonicalize().unwrap());
            assert_eq!(paths, [&index, &layers].map(|path| path.canonicalize().unwrap()));
            assert!(found.store.ends_with("default.castr"));
        }
    }
    assert_eq!(file(&layers.join("1.squash")).unwrap().chunks.unwrap().index, layers.join("1.caibx"));
    // The file is better.
    fs::write(layers.join("1.squash"), superblock(96)).unwrap();
    for lower in both_forms(&store) {
        assert_eq!(layer(&lower).unwrap().source.sidecar().unwrap().chunks, None);
    }
}

#[test]
fn a_list_of_directories_is_used_if_all_are_there() {
    let store = store();
    let parts = ["top", "base"].map(|name| store.path().join(name));
    let list = parts.each_ref().map(|part| format!("{}\n", part.display())).concat();
    fs::write(store.path().join("overlay/id/parts"), list).unwrap();
    fs::create_dir(&parts[0]).unwrap();
    assert!(matches!(layer(&both_forms(&store)[0]), Err(LayerError::Unreadable { path, .. }) if path == parts[1]));
    fs::create_dir(&parts[1]).unwrap();
    for lower in both_forms(&store) {
        assert_eq!(layer(&lower).unwrap().source, Source::Parts(parts.to_vec()));
    }
}

#[test]
fn an_erofs_file_is_taken_where_there_is_no_squashfs_file() {
    let store = store();
    let erofs = sidecar(&store).with_extension(layout::EROFS);
    let mut bytes = vec![0; 1024];
    bytes.extend(erofs::MAGIC);
    bytes.resize(4096, 0);
    (bytes[1024 + 12], bytes[1024 + 36]) = (12, 1);
    fs::write(&erofs, &bytes).unwrap();
    for lower in both_forms(&store) {
        let found = layer(&lower).unwrap().source;
        let found = found.sidecar().unwrap();
        assert_eq!((found.format, &found.path), (LayerFormat::Erofs, &erofs));
    }
    fs::write(&erofs, &bytes[..3000]).unwrap();
    let error = layer(&both_forms(&store)[0]).unwrap_err().to_string();
    assert!(error.contains("truncated"), "{error}");
    fs::write(&erofs, "something").unwrap();
    let error = layer(&both_forms(&store)[0]).unwrap_err().to_string();
    assert!(error.contains("not an EROFS file"), "{error}");
    fs::write(sidecar(&store), superblock(96)).unwrap();
    assert_eq!(layer(&both_forms(&store)[0]).unwrap().source.sidecar().unwrap().format, LayerFormat::Squashfs);
}

#[test]
fn a_layer_that_lies_elsewhere_is_a_plain_one() {
    let (store, elsewhere) = (store(), tempfile::tempdir().unwrap());
    fs::create_dir_all(store.path().join("parallax/layers")).unwrap();
    fs::write(elsewhere.path().join("file"), "").unwrap();
    fs::remove_dir(store.path().join("overlay/id/diff")).unwrap();
    symlink(elsewhere.path(), store.path().join("overlay/id/diff")).unwrap();
    for lower in both_forms(&store) {
        assert!(matches!(layer(&lower).unwrap().source, Source::Directory { hollow_in: None, .. }));
    }
    drop(elsewhere);
    assert!(both_forms(&store).iter().all(|lower| layer(lower).is_err()));
}

#[test]
fn a_lost_side_car_is_an_error_in_a_store_of_squashfs_files() {
    for sign in ["parallax/layers", "squash", "overlay/l/OTHER.squash"] {
        let store = store();
        fs::create_dir_all(store.path().join(sign)).unwrap();
        for lower in both_forms(&store) {
            assert!(matches!(layer(&lower), Err(LayerError::Missing { .. })), "{sign}");
        }
        // A layer with files is a plain one there as well.
        fs::write(store.path().join("overlay/id/diff/file"), "").unwrap();
        for lower in both_forms(&store) {
            assert!(matches!(layer(&lower).unwrap().source, Source::Directory { hollow_in: None, .. }), "{sign}");
        }
    }
}

#[test]
fn a_marker_or_a_broken_link_tells_of_a_lost_side_car_in_any_store() {
    let store = store();
    let [lower, _] = both_forms(&store);
    let overlay = store.path().join("overlay");
    assert_eq!(layer(&lower).unwrap().source, Source::Directory { path: lower.clone(), hollow_in: Some(overlay) });
    symlink("nowhere", sidecar(&store)).unwrap();
    assert!(matches!(layer(&lower), Err(LayerError::Missing { .. })));
    fs::remove_file(sidecar(&store)).unwrap();
    fs::write(store.path().join("overlay/id/diff/.migrationv3-debian"), "").unwrap();
    assert!(matches!(layer(&lower), Err(LayerError::Missing { .. })));
}

#[test]
fn what_is_no_whole_squashfs_file_is_refused() {
    let store = store();
    let [lower, _] = both_forms(&store);
    for bytes in [&b""[..], b"hsqs", &superblock(97), &[0; 200]] {
        fs::write(sidecar(&store), bytes).unwrap();
        assert!(matches!(layer(&lower), Err(LayerError::Damaged { .. })), "{bytes:?}");
    }
    fs::remove_file(sidecar(&store)).unwrap();
    fs::create_dir(sidecar(&store)).unwrap();
    assert!(layer(&lower).is_err());
}

#[test]
fn the_empty_directory_below_a_base_layer_is_no_layer() {
    let store = store();
    let filler = store.path().join("overlay/id/empty");
    assert_eq!(look_up(&filler).unwrap(), None);
    fs::create_dir(&filler).unwrap();
    assert_eq!(look_up(&filler).unwrap(), None);
    fs::write(filler.join("file"), "").unwrap();
    assert!(look_up(&filler).unwrap().is_some());
    assert!(look_up(&store.path().join("empty")).is_err());
}

#[test]
fn other_directories_are_what_they_are() {
    let store = store();
    let plain = store.path().join("some where");
    fs::create_dir(&plain).unwrap();
    assert!(matches!(layer(&plain).unwrap().source, Source::Directory { hollow_in: None, .. }));
    assert!(matches!(layer(&store.path().join("none")), Err(LayerError::Unreadable { .. })));
}

#[test]
fn what_podman_mapped_itself_is_not_called_damaged() {
    let store = store();
    let mapped = store.path().join("mapped/0");
    fs::create_dir(store.path().join("mapped")).unwrap();
    fs::rename(store.path().join("overlay"), &mapped).unwrap();
    symlink("../../squash/file", mapped.join("l").join(format!("{LINK}.squash"))).unwrap();
    assert!(matches!(layer(&mapped.join("l").join(LINK)), Err(LayerError::MappedByPodman(_))));
}
