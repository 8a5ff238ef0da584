use super::*;
use parallax_format::digest::LayerId;

use crate::hash::sha256;

/// As Podman writes it, with a field of its own; as others may: spaces, another order, letters as numbers; two that
/// belong to nobody here.
const IMAGES: &str = r#"[{"id":"one","names":["a:1","b:1"],"metadata":"{\"x\": 1}","layer":"top"},
 { "layer" : "top", "id" : "t\u0077o" , "names" : ["a\u003a2"] },
 {"id":"one","names":5}, 7 ]"#;

fn written(list: &ImageList) -> String {
    String::from_utf8(list.pieces().concat()).unwrap()
}

#[test]
fn an_entry_is_found_however_it_is_written() {
    let list = ImageList::parse(IMAGES).unwrap();
    assert_eq!(
        (list.names("one"), list.names("two")),
        (vec!["a:1".to_owned(), "b:1".to_owned()], vec!["a:2".to_owned()])
    );
    assert!(!list.has("three") && !list.has("") && !list.has("t\\u0077o"));
    assert_eq!(list.tops_of("two"), ["top"]);
    assert_eq!(list.ids(), BTreeSet::from(["one".to_owned(), "two".to_owned()]));
    // The first entry with the id is of a shape that is not known, and is not it.
    let other = ImageList::parse(r#"[{"id":"one","names":5},{"id":"one","names":["c"]}]"#).unwrap();
    assert_eq!(other.names("one"), ["c"]);
}

#[test]
fn what_does_not_change_stays_as_it_is() {
    let list = ImageList::parse(IMAGES).unwrap();
    assert!(!list.changed());
    assert_eq!((written(&list), list.pieces().len()), (IMAGES.replace(" ]", "]"), 3));

    let mut list = ImageList::parse(IMAGES).unwrap();
    assert_eq!(list.move_name("a:2", "one"), ["two"]);
    let expected = r#"[{"id":"one","names":["a:1","b:1","a:2"],"metadata":"{\"x\": 1}","layer":"top"},{"layer":"top","id":"two","names":[]},{"id":"one","names":5}, 7]"#;
    assert_eq!(written(&list).replace("\"t\\u0077o\"", "\"two\""), expected);
    assert_eq!(list.id_of_name(&ImageName::for_storing("a:2").unwrap()).as_deref(), Some("one"));

    let mut list = ImageList::parse(IMAGES).unwrap();
    list.remove(&BTreeSet::from(["two".to_owned()]));
    assert!(list.changed() && !list.has("two") && list.has("one"));
    assert_eq!(written(&list).matches("top").count(), 1);
    assert_eq!(ImageList::parse(written(&list)).unwrap().names("one"), ["a:1", "b:1"]);
}

#[test]
fn what_is_added_is_found_at_once() {
    let mut list = LayerList::parse("").unwrap();
    let id = |of: &str| LayerId::from(sha256(of.as_bytes()));
    let layer = |of: &str, parent: Option<&str>| Layer {
        id: id(of),
        parent: parent.map(id),
        created: String::new(),
        diff_digest: sha256(of.as_bytes()).into(),
        diff_size: 1,
        uidmap: Vec::new(),
        gidmap: Vec::new(),
    };
    assert!(!list.has(&id("base")));
    for (id, parent) in [("base", None), ("top", Some("base")), ("top", Some("other"))] {
        list.add(&layer(id, parent)).unwrap();
    }
    let ids = BTreeSet::from(["base", "top"].map(|of| id(of).to_string()));
    assert_eq!((list.ids(), list.with_parents([id("top").to_string()])), (ids.clone(), ids));
    assert_eq!(list.diff_ids(), BTreeSet::from(["base", "top"].map(|of| sha256(of.as_bytes()).into())));
    list.set_size(&id("base"), 2);
    list.set_size(&id("top"), 2);
    let size = |of: &str| list.get(&id(of)).unwrap()["diff-size"].clone();
    assert_eq!((size("base"), size("top")), (2.into(), 1.into()));
    assert!(LayerList::parse("[").is_err() && LayerList::parse("{}").is_err() && LayerList::parse([0xff]).is_err());
}
