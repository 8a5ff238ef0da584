use std::fs;

use super::*;
use crate::testing::{image, publish, store};

fn problems(store: &Store, id: &ImageId) -> Vec<String> {
    let mut verifier = Verifier::new(store).unwrap();
    verifier.index().unwrap();
    verifier.image(id).unwrap();
    verifier.problems().iter().map(|problem| format!("{} {}", problem.path, problem.what)).collect()
}

#[test]
fn a_good_store_has_no_problems_and_each_damage_is_found() {
    type Damage = fn(&Store, &ImageRecord);
    let damages: [(&str, Damage); 9] = [
        (".squash has changed", |store, record| {
            let path = store.root().join(record.layers[0].file_path());
            let mut bytes = fs::read(&path).unwrap();
            bytes[96] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("superblock", |store, record| {
            let path = store.root().join(record.layers[0].file_path());
            let mut bytes = fs::read(&path).unwrap();
            bytes[0] = 0;
            fs::write(path, bytes).unwrap();
        }),
        ("bytes and should have", |store, record| {
            fs::write(store.root().join(record.layers[0].file_path()), "hsqs").unwrap();
        }),
        ("lower does not name", |store, record| {
            fs::write(store.root().join("overlay").join(record.layers[1].id).join("lower"), "l/X").unwrap();
        }),
        ("link does not hold", |store, record| {
            fs::remove_file(store.root().join("overlay").join(record.layers[1].id).join("link")).unwrap();
        }),
        ("leads to no SquashFS file", |store, record| {
            fs::remove_file(store.root().join(record.layers[1].link.sidecar())).unwrap();
        }),
        ("does not list the layer", |store, _| fs::write(store.root().join(LAYERS_JSON), "[]").unwrap()),
        ("does not list the image", |store, _| fs::write(store.root().join(IMAGES_JSON), "[]").unwrap()),
        ("names/localhost%2Fapp:1 does not lead", |store, _| {
            fs::remove_file(store.root().join("parallax/names/localhost%2Fapp:1")).unwrap();
        }),
    ];
    for (expected, damage) in damages {
        let (_directory, store) = store();
        let record = publish(&store, &image("config", "app:1", &["base", "top"]), &["base", "top"]).unwrap();
        assert_eq!(problems(&store, &record.id), Vec::<String>::new());
        damage(&store, &record);
        let found = problems(&store, &record.id);
        assert!(found.iter().any(|problem| problem.contains(expected)), "{expected}: {found:?}");
    }
}

#[test]
fn what_a_writer_was_at_is_no_problem_when_looked_at_again() {
    let (_directory, store) = store();
    let record = publish(&store, &image("config", "app:1", &["base", "top"]), &["base", "top"]).unwrap();
    let entry = store.root().join("parallax/names/localhost%2Fapp:1");
    let target = fs::read_link(&entry).unwrap();
    fs::remove_file(&entry).unwrap();
    fs::write(store.root().join(record.layers[0].file_path()), "hsqs").unwrap();
    let mut verifier = Verifier::new(&store).unwrap();
    verifier.image(&record.id).unwrap();
    let about = |verifier: &Verifier<'_>, path: &str| verifier.problems().iter().any(|it| it.path.ends_with(path));
    assert!(about(&verifier, "app:1") && about(&verifier, ".squash"), "{:?}", verifier.problems());
    std::os::unix::fs::symlink(target, &entry).unwrap();
    assert!(verifier.again().unwrap());
    verifier.image(&record.id).unwrap();
    // The file is read again, since it was not well.
    assert!(!about(&verifier, "app:1") && about(&verifier, ".squash"), "{:?}", verifier.problems());
}

#[test]
fn records_and_index_are_checked() {
    let (_directory, store) = store();
    let record = publish(&store, &image("config", "app:1", &["base"]), &["base"]).unwrap();
    let path = store.root().join(IndexPath::record(&record.id));
    fs::write(&path, ImageRecord { config: "other".into(), ..record.clone() }.to_bytes()).unwrap();
    assert!(problems(&store, &record.id)[0].contains("does not match its digests"));
    fs::write(&path, "{").unwrap();
    assert!(problems(&store, &record.id)[0].contains("cannot be used"));
    fs::remove_file(&path).unwrap();
    let found = problems(&store, &record.id);
    assert!(found.iter().filter(|problem| problem.contains("leads to no record")).count() == 3, "{found:?}");
}
