use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::*;
use parallax_format::layout::LAYERS_JSON;

use crate::testing::{Foreign, foreign_image, image, json, publish, store};
use crate::write::import::Unpacked;

/// Every path in the store but those of removed files that have their grace.
fn paths(store: &Store) -> BTreeSet<String> {
    fn walk(directory: &Path, into: &mut BTreeSet<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            into.insert(path.display().to_string());
            if path.symlink_metadata().unwrap().is_dir() {
                walk(&path, into);
            }
        }
    }
    let mut all = BTreeSet::new();
    walk(store.root(), &mut all);
    all.retain(|path| !path.contains("/parallax/removed/"));
    all
}

fn name(text: &str) -> Target {
    Target::Name(ImageName::for_storing(text).unwrap())
}

#[test]
fn what_only_the_removed_image_had_goes_and_nothing_else() {
    let (_directory, store) = store();
    let kept = image("kept", "kept:1", &["base"]);
    publish(&store, &kept, &["base"]).unwrap();
    let before = (paths(&store), json(&store, LAYERS_JSON), json(&store, IMAGES_JSON));
    publish(&store, &image("gone", "gone:1", &["base", "top"]), &["base", "top"]).unwrap();
    let removed = store.remove(&name("gone:1"), false).unwrap();
    assert_eq!(removed.names, ["localhost/gone:1"]);
    assert!(removed.image.unwrap().iter().any(|garbage| garbage.path.ends_with(".squash") && garbage.bytes > 0));
    assert_eq!((paths(&store), json(&store, LAYERS_JSON), json(&store, IMAGES_JSON)), before);
    assert!(matches!(store.remove(&name("gone:1"), false), Err(StoreError::NoImage(_))));
    store.remove(&Target::Image(kept.id), false).unwrap();
    assert_eq!(json(&store, LAYERS_JSON), json!([]));
    assert!(
        !paths(&store)
            .iter()
            .any(|path| path.ends_with(".squash") || path.ends_with(".json") && path.contains("parallax"))
    );
}

#[test]
fn a_removed_file_stays_whole_until_its_grace_is_over() {
    let (_directory, store) = store();
    publish(&store, &image("config", "app:1", &["base"]), &["base"]).unwrap();
    let layer = fs::read_dir(store.root().join("parallax/layers")).unwrap().map(|entry| entry.unwrap().path());
    let file = fs::File::open(layer.into_iter().find(|path| path.extension().unwrap() == "squash").unwrap()).unwrap();
    for _ in 0..2 {
        store.remove(&name("app:1"), false).unwrap();
        publish(&store, &image("config", "app:1", &["base"]), &["base"]).unwrap();
    }
    let removed = || fs::read_dir(store.root().join("parallax/removed")).unwrap().count();
    assert_eq!(removed(), 2);
    let day = Duration::from_secs(86_400);
    assert_eq!(store.collect(Collection { grace: day, ..Collection::default() }).unwrap().garbage, []);
    // Renamed, not removed: NFS lets go of a file that another machine removes.
    assert_eq!((removed(), std::os::unix::fs::MetadataExt::nlink(&file.metadata().unwrap())), (2, 1));
    assert_eq!(store.collect(Collection::default()).unwrap().garbage.len(), 2);
    assert_eq!(removed(), 0);
}

#[test]
fn names_go_one_by_one_and_the_image_with_the_last() {
    let (_directory, store) = store();
    let new = image("config", "app:1", &["base"]);
    publish(&store, &new, &["base"]).unwrap();
    let second = ImageName::for_storing("app:2").unwrap();
    assert_eq!(store.tag(&new.id, &second).unwrap().names, ["localhost/app:1", "localhost/app:2"]);
    assert!(matches!(store.remove(&Target::Image(new.id), false), Err(StoreError::SeveralNames(_))));
    assert_eq!(store.remove(&name("app:1"), false).unwrap().image, None);
    assert_eq!(store.image(&new.id).unwrap().unwrap().names, ["localhost/app:2"]);
    assert_eq!(
        (store.id_of_name(&second), json(&store, IMAGES_JSON)[0]["names"].clone()),
        (Some(new.id), json!(["localhost/app:2"]))
    );
    store.tag(&new.id, &ImageName::for_storing("app:1").unwrap()).unwrap();
    assert!(store.remove(&Target::Image(new.id), true).unwrap().image.is_some());
    assert!(store.image(&new.id).unwrap().is_none() && store.id_of_name(&second).is_none());
    assert!(matches!(store.tag(&new.id, &second), Err(StoreError::NoImage(_))));
}

#[test]
fn a_live_writers_files_and_another_tools_stay() {
    let (_directory, store) = store();
    let work = store.work_directory().unwrap();
    let dead = store.root().join("parallax/tmp/work-dead");
    fs::create_dir(&dead).unwrap();
    fs::write(dead.join("lock"), "").unwrap();
    fs::write(dead.join("layer"), [1; 5000]).unwrap();
    fs::write(store.root().join("parallax/layers/ab.squash"), "x").unwrap();
    let theirs = store.root().join("overlay").join("a".repeat(64));
    fs::create_dir_all(theirs.join("diff")).unwrap();
    fs::write(theirs.join("link"), "ABCDEFGHIJKLMNOPQRSTUVWXYZ").unwrap();
    fs::write(store.root().join(LAYERS_JSON), json!([{"id": "a".repeat(64)}]).to_string()).unwrap();
    fs::write(store.root().join(IMAGES_JSON), json!([{"id": "x", "layer": "y"}]).to_string()).unwrap();

    let before = paths(&store);
    let would = store.collect(Collection { dry_run: true, ..Collection::default() }).unwrap();
    assert_eq!(paths(&store), before);
    let collected = store.collect(Collection::default()).unwrap();
    assert_eq!(would, collected);
    let removed: Vec<_> = collected.garbage.iter().map(|garbage| garbage.path.as_str()).collect();
    assert_eq!(removed, ["parallax/layers/ab.squash", "parallax/tmp/work-dead"]);
    assert!(collected.garbage[1].bytes >= 5000 && collected.live == 1);
    assert!(work.path().join("lock").exists() && theirs.join("link").exists() && !dead.exists());
    assert_eq!(json(&store, IMAGES_JSON)[0]["id"], "x");
}

#[test]
fn a_record_nobody_can_read_stops_the_collection() {
    let (_directory, store) = store();
    fs::write(store.root().join("parallax/images/x.json"), r#"{"version": 9}"#).unwrap();
    fs::write(store.root().join("parallax/layers/ab.squash"), "x").unwrap();
    assert!(matches!(store.collect(Collection::default()), Err(StoreError::Corrupt { .. })));
    assert!(store.root().join("parallax/layers/ab.squash").exists());
}

#[test]
fn writers_removers_and_collectors_at_once_lose_nothing() {
    let (_directory, store) = store();
    publish(&store, &image("kept", "kept:1", &["base"]), &["base"]).unwrap();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let store = &store;
            scope.spawn(move || {
                let new = image(&format!("image {number}"), &format!("app:{number}"), &["base", "common", "top"]);
                for round in 0..4 {
                    // A layer may go between the look and the lock; a migration then tries again.
                    while let Err(error) = publish(store, &new, &["base", "common", "top"]) {
                        assert!(matches!(error, StoreError::LayerGone(_)), "{error}");
                    }
                    assert!(store.image(&new.id).unwrap().is_some());
                    store.collect(Collection::default()).unwrap();
                    assert!(store.image(&new.id).unwrap().is_some());
                    if round < 3 {
                        store.remove(&Target::Image(new.id), false).unwrap();
                    }
                }
            });
        }
    });
    check(&store, "all at once");
    assert_eq!(json(&store, IMAGES_JSON).as_array().unwrap().len(), 9);
    assert_eq!(store.collect(Collection::default()).unwrap(), Collected::default());
}

/// Not a test of its own: what [`killed_anywhere_the_store_works`] runs in a process that dies on the way.
#[test]
fn change_the_store_as_told() {
    let (Ok(root), Ok(change)) = (std::env::var("PARALLAX_TEST_STORE"), std::env::var("PARALLAX_TEST_CHANGE")) else {
        return;
    };
    let store = Store::create_or_open(Path::new(&root)).unwrap();
    match change.as_str() {
        "add" => drop(publish(&store, &image("half", "half:1", &["base", "top"]), &["base", "top"]).unwrap()),
        "move" => drop(publish(&store, &image("half", "kept:2", &["base", "top"]), &["base", "top"]).unwrap()),
        "tag" => drop(store.tag(&image("kept", "x", &[]).id, &ImageName::for_storing("half:1").unwrap()).unwrap()),
        "untag" => drop(store.remove(&name("kept:2"), false).unwrap()),
        "remove" => drop(store.remove(&name("half:1"), false).unwrap()),
        "remove-foreign" | "remove-unpacked" => drop(store.remove(&name("theirs:1"), false).unwrap()),
        "import" => drop(store.import(&lying_unpacked("half:1"), None).unwrap()),
        "adopt" => {
            let id = ImageId::parse(&store.foreign_images().unwrap()[0].id).unwrap();
            let mut record = store.foreign_image(&id).unwrap();
            record.layers[0].squashfs_sha256 = Sha256::parse(&"ab".repeat(32));
            drop(store.adopt(&record).unwrap());
        }
        add if add.starts_with("add ") => {
            drop(publish(&store, &image(add, &add.replace(' ', ":"), &["base", add]), &["base", add]).unwrap());
        }
        "collect" => drop(store.collect(Collection::default()).unwrap()),
        other => panic!("{other}"),
    }
}

/// Eight processes that have no locks but the file, and four that collect what the waiting ones may have left.
#[test]
fn processes_take_turns_without_locks() {
    let (_directory, store) = store();
    publish(&store, &image("kept", "kept:1", &["base"]), &["base"]).unwrap();
    let start = |change: String| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "write::remove::tests::change_the_store_as_told"])
            .env("PARALLAX_TEST_STORE", store.root())
            .env("PARALLAX_TEST_CHANGE", change)
            .env("PARALLAX_TEST_NO_LOCKS", "1")
            .spawn()
            .unwrap()
    };
    let changes = (0..8).map(|number| format!("add {number}")).chain(vec!["collect".to_owned(); 4]);
    let writers: Vec<_> = changes.map(start).collect();
    for mut writer in writers {
        assert!(writer.wait().unwrap().success());
    }
    check(&store, "without locks");
    assert_eq!(json(&store, IMAGES_JSON).as_array().unwrap().len(), 9);
    assert_eq!(json(&store, LAYERS_JSON).as_array().unwrap().len(), 9);
    assert!(!store.root().join("parallax/lock").exists());
}

/// How writers are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Locks,
    TheFile,
}

/// Runs a change, killed at its n-th operation. Whether it was.
fn killed(store: &Store, by: By, change: &str, at: u32) -> bool {
    use std::os::unix::process::ExitStatusExt as _;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "write::remove::tests::change_the_store_as_told"])
        .env("PARALLAX_TEST_STORE", store.root())
        .env("PARALLAX_TEST_CHANGE", change)
        .env("PARALLAX_TEST_KILL_AT", at.to_string());
    if by == By::TheFile {
        command.env("PARALLAX_TEST_NO_LOCKS", "1");
    }
    let output = command.output().unwrap();
    assert!(output.status.success() || output.status.signal() == Some(9), "{change} {at}: {output:?}");
    !output.status.success()
}

/// What must hold at any time: all that readers are led to is there.
fn check(store: &Store, what: &str) {
    let kept = image("kept", "kept:1", &["base"]);
    let record = store.image(&kept.id).unwrap().unwrap_or_else(|| panic!("{what}: the other image is gone"));
    assert_eq!(store.id_of_name(&kept.name), Some(kept.id), "{what}");
    assert_eq!(store.id_of_digest(&kept.digest), Some(record.id), "{what}");
    for entry in fs::read_dir(store.root().join(IndexPath::names_directory())).unwrap() {
        let id = store.id_at(&format!("parallax/names/{}", entry.unwrap().file_name().to_str().unwrap())).unwrap();
        assert!(store.image(&id).unwrap().is_some(), "{what}: a name leads to half an image");
    }
    let layers = json(store, LAYERS_JSON);
    let mut names = BTreeSet::new();
    for image in json(store, IMAGES_JSON).as_array().unwrap() {
        for name in image["names"].as_array().unwrap() {
            assert!(names.insert(name.to_string()), "{what}: {name} is on two images");
        }
        let id = image["id"].as_str().unwrap();
        for key in image["big-data-names"].as_array().unwrap() {
            let file = parallax_format::podman::big_data_file(key.as_str().unwrap());
            assert!(store.root().join("overlay-images").join(id).join(file).is_file(), "{what}: {key} of an image");
        }
        let mut layer = &image["layer"];
        while let Some(id) = layer.as_str().filter(|id| !id.is_empty()) {
            let entry = layers.as_array().unwrap().iter().find(|entry| entry["id"] == *layer);
            layer = &entry.unwrap_or_else(|| panic!("{what}: {id} is in no list"))["parent"];
            let link = store.link_of(id).unwrap().unwrap_or_else(|| panic!("{what}: {id} has no link"));
            let links = store.root().join(parallax_format::layout::LINKS);
            assert!(links.join(link.as_str()).is_dir(), "{what}: {id}");
            // Of an image that lies unpacked the files are elsewhere.
            let is_elsewhere = store.root().join(format!("overlay/{id}/diff")).is_symlink();
            assert!(is_elsewhere || links.join(format!("{}.squash", link.as_str())).is_file(), "{what}: {id}");
        }
    }
}

#[test]
fn killed_anywhere_the_store_works() {
    for change in ["add", "move", "tag", "untag", "remove", "remove-foreign", "adopt", "import", "remove-unpacked"] {
        let (points, _) = killed_at_every(change, By::Locks, 1);
        assert!(points > 10, "{change} has {points} points only");
    }
}

/// The lock is a file then, which the dead leave: the next writer must see that they are.
#[test]
fn killed_with_the_lock_file_the_store_works() {
    for change in ["add", "untag", "remove"] {
        let (points, left) = killed_at_every(change, By::TheFile, 3);
        assert!(points > 10 && left > 3, "{change} has {points} points only, and left {left} locks");
    }
}

/// A store to change, and what of it must be there whatever happens.
fn prepared(change: &str) -> (tempfile::TempDir, Store) {
    let (directory, store) = store();
    let kept = image("kept", "kept:1", &["base"]);
    publish(&store, &kept, &["base"]).unwrap();
    store.tag(&kept.id, &ImageName::for_storing("kept:2").unwrap()).unwrap();
    if matches!(change, "remove-foreign" | "adopt") {
        foreign_image(store.root(), Foreign::GoTool, "theirs:1");
    }
    if change == "remove-unpacked" {
        store.import(&lying_unpacked("theirs:1"), None).unwrap();
    }
    if matches!(change, "remove" | "tag") {
        publish(&store, &image("half", "half:1", &["base", "top"]), &["base", "top"]).unwrap();
    }
    (directory, store)
}

/// An image that lies unpacked in a directory that is there.
fn lying_unpacked(name: &str) -> Unpacked {
    Unpacked {
        id: "ab".repeat(32).parse().unwrap(),
        name: ImageName::for_storing(name).unwrap(),
        directory: "/usr".into(),
        parts: Vec::new(),
        configuration: serde_json::Map::new(),
        created: "2026-01-01T00:00:00Z".to_owned(),
        size: 7,
    }
}

fn relative(store: &Store) -> BTreeSet<String> {
    let root = store.root().display().to_string();
    paths(store).into_iter().map(|path| path.replace(&root, "")).collect()
}

/// Kills a change at its first operation and then at every `step`-th one. How many operations it has, and how many of the
/// killed left the lock's file.
fn killed_at_every(change: &str, by: By, step: usize) -> (u32, u32) {
    let (_directory, unchanged) = prepared(change);
    let (_other_directory, done) = prepared(change);
    assert!(!killed(&done, by, change, 0));
    let ends = [relative(&unchanged), relative(&done)];
    let mut left = 0;
    for at in (1..).step_by(step) {
        let (_directory, store) = prepared(change);
        if !killed(&store, by, change, at) {
            return (at, left);
        }
        left += u32::from(store.root().join("parallax/lock").exists());
        let what = format!("{change} by {by:?} killed at {at}");
        check(&store, &what);
        // A collection that is killed too, somewhere, and one that is not.
        let again = killed(&store, by, "collect", at % 17 + 1);
        check(&store, &format!("{what}, collection killed: {again}"));
        assert!(!killed(&store, by, "collect", 0), "{what}");
        check(&store, &format!("{what}, collected"));
        let now = relative(&store);
        assert!(ends.contains(&now), "{what}: {:?}", now.symmetric_difference(&ends[0]).collect::<Vec<_>>());
        assert_eq!(store.collect(Collection::default()).unwrap(), Collected::default(), "{what}");
    }
    unreachable!("there are operations without end")
}
