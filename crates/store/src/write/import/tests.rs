use std::collections::BTreeMap;
use std::fs;

use parallax_format::ImageRef;

use super::*;
use crate::Verifier;
use crate::read::foreign::Unrecorded;
use crate::read::trusted::TrustedStore;
use crate::testing::{Foreign, foreign_image, image, publish};
use crate::write::remove::{Collection, Target};

fn unpacked(directory: &Path, name: &str) -> Unpacked {
    Unpacked {
        id: "ab".repeat(32).parse().unwrap(),
        name: ImageName::for_storing(name).unwrap(),
        directory: directory.to_owned(),
        parts: Vec::new(),
        configuration: serde_json::from_str(r#"{"history":[{},{}],"config":{"Env":["A=b"]}}"#).unwrap(),
        created: "2026-01-01T00:00:00Z".to_owned(),
        size: 7,
    }
}

fn directory_of(store: &Store, text: &str) -> Option<PathBuf> {
    let store = TrustedStore::open(store.root()).unwrap();
    match store.resolve_unrecorded(&ImageRef::parse(text).unwrap()).unwrap()? {
        Unrecorded::Unpacked(directory) => Some(directory),
        Unrecorded::Record(record) => panic!("{record:?}"),
    }
}

/// The files and links of a store but those that only keep writers apart.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.symlink_metadata().unwrap().file_type();
            if kind.is_dir() {
                left.push(path);
            } else if path.extension().is_none_or(|kind| kind != "lock") {
                let link = || fs::read_link(&path).unwrap().to_str().unwrap().into();
                let bytes = if kind.is_symlink() { link() } else { fs::read(&path).unwrap() };
                found.insert(path.strip_prefix(root).unwrap().to_owned(), bytes);
            }
        }
    }
    found
}

#[test]
fn two_hosts_write_the_same_and_a_second_time_nothing() {
    let (one, two, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let stores = [&one, &two].map(|directory| Store::create_or_open(directory.path()).unwrap());
    let image = unpacked(tree.path(), "quay.io/a/b:1");
    for store in &stores {
        assert!(store.import(&image, None).unwrap());
    }
    let written = files(one.path());
    assert_eq!(written, files(two.path()));
    let bytes: usize = written.values().map(Vec::len).sum();
    assert!(bytes < 100_000, "{bytes} bytes for an image");
    assert!(!stores[0].import(&image, None).unwrap());
    assert_eq!(files(one.path()), written);
    assert_eq!(fs::read_dir(tree.path()).unwrap().count(), 0);
}

#[test]
fn an_unpacked_image_is_found_verified_kept_and_removed() {
    let (directory, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Store::create_or_open(directory.path()).unwrap();
    let image = unpacked(tree.path(), "quay.io/a/b:1");
    store.import(&image, None).unwrap();
    store.import(&Unpacked { name: ImageName::for_storing("other:1").unwrap(), ..image.clone() }, None).unwrap();
    let found = |text: &str| directory_of(&store, text);
    for text in ["quay.io/a/b:1", "other:1", image.id.as_str()] {
        assert_eq!(found(text).as_deref(), Some(tree.path()), "{text}");
    }
    assert_eq!(found("quay.io/a/b:2"), None);
    // A layer on others is not the whole image.
    let layer = fs::read_dir(store.root().join("overlay")).unwrap().map(|entry| entry.unwrap().path());
    let lower = layer.into_iter().find(|path| !path.ends_with("l")).unwrap().join("lower");
    fs::write(&lower, "l/ABC").unwrap();
    let reference = ImageRef::parse("other:1").unwrap();
    assert!(TrustedStore::open(store.root()).unwrap().resolve_unrecorded(&reference).is_err());
    fs::remove_file(lower).unwrap();

    assert_eq!(store.collect(Collection::default()).unwrap().garbage, []);
    let problems = || {
        let mut verifier = Verifier::new(&store).unwrap();
        verifier.foreign().unwrap();
        verifier.problems().iter().map(|problem| problem.what.clone()).collect::<Vec<_>>()
    };
    assert_eq!(problems(), [""; 0]);
    let listing = crate::read::list(store.root()).unwrap();
    assert_eq!((listing.images.len(), listing.unusable.len(), listing.unpacked.len()), (0, 0, 1));
    let place = tree.path().to_owned();
    drop(tree);
    assert_eq!(problems().len(), 1);
    fs::create_dir(&place).unwrap();
    fs::write(place.join("kept"), "").unwrap();
    store.remove(&Target::Image(image.id), true).unwrap();
    assert_eq!(found(image.id.as_str()), None);
    assert!(place.join("kept").exists(), "a file of the image was removed");
    assert!(store.collect(Collection::default()).unwrap().garbage.is_empty());
    fs::remove_dir_all(place).unwrap();
}

#[test]
fn a_name_follows_the_repository_but_not_away_from_a_migrated_image() {
    let (directory, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Store::create_or_open(directory.path()).unwrap();
    let old = unpacked(tree.path(), "quay.io/a/b:1");
    let new = Unpacked { id: "cd".repeat(32).parse().unwrap(), directory: tree.path().join("new"), ..old.clone() };
    store.import(&old, None).unwrap();
    assert!(store.import(&new, None).unwrap());
    assert_eq!(directory_of(&store, "quay.io/a/b:1"), Some(new.directory.clone()));
    // The image that lost its name is still there by its id, and may lie elsewhere by now.
    let elsewhere = Unpacked { name: ImageName::for_storing("old:1").unwrap(), directory: "/elsewhere".into(), ..old };
    assert!(store.import(&elsewhere, None).unwrap());
    assert_eq!(directory_of(&store, elsewhere.id.as_str()), Some("/elsewhere".into()));

    publish(&store, &image("config", "app:1", &["base"]), &["base"]).unwrap();
    foreign_image(store.root(), Foreign::PodmanHpc, "theirs:1");
    for name in ["app:1", "theirs:1"] {
        let taken = Unpacked { name: ImageName::for_storing(name).unwrap(), ..new.clone() };
        assert!(matches!(store.import(&taken, None), Err(StoreError::Taken(_))), "{name}");
    }
    let migrated = store.ids_with("").unwrap()[0];
    assert!(matches!(store.import(&Unpacked { id: migrated, ..new }, None), Err(StoreError::Taken(_))));
}
