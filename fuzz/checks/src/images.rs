//! Podman's list of images, which other tools write too.

use std::collections::BTreeSet;

use parallax_format::digest::{ImageId, Sha256};
use parallax_format::podman::Image;
use parallax_format::podman::ListedImage;
use parallax_format::{ImageName, ImageRef};
use parallax_store::podman_lists::ImageList;
use parallax_store::read::listed_images;
use serde_json::Value;
use serde_json::value::RawValue;

const NAME: &str = "localhost/checked:1";

/// Any bytes are refused, or are a list that comes back with every entry in it; and a change of it does what it is to do to the
/// image it is for, and nothing to others.
///
/// # Panics
/// If it does not.
pub fn check(input: &[u8]) {
    // What a reader skips may hold any bytes; writers copy it, and only text.
    let entries = listed_images(input).ok().filter(|_| std::str::from_utf8(input).is_ok());
    if let Some(entries) = entries {
        for entry in &entries {
            looked_at(entry);
        }
        assert!(ImageList::parse(input).is_ok(), "a reader takes it, a writer does not");
    }
    let Ok(list) = ImageList::parse(input) else { return };
    let texts = texts(&list.pieces().concat());
    assert_eq!(texts, self::texts(if input.is_empty() { b"[]" } else { input }));
    named(input, &texts);
    removed(input, &texts);
    added(input, &texts);
}

fn looked_at(entry: &ListedImage) {
    for name in entry.names() {
        let text = name.to_string();
        if let Ok(reference) = ImageRef::parse(&text) {
            assert!(entry.fits(&reference).is_some(), "{text}");
        }
    }
    assert!(entry.manifest_digests().all(|digest| entry.has_digest(&digest)));
}

fn texts(list: &[u8]) -> Vec<String> {
    let texts: Option<Vec<Box<RawValue>>> = serde_json::from_slice(list).expect("a list");
    texts.into_iter().flatten().map(|text| text.get().to_owned()).collect()
}

fn ids(input: &[u8]) -> Vec<String> {
    let list = ImageList::parse(input).expect("read before");
    list.ids().into_iter().filter(|id| !id.is_empty()).take(3).collect()
}

/// One entry has the name afterwards, that image's, and all that did not have it are as they were.
fn named(input: &[u8], before: &[String]) {
    for id in ids(input) {
        let mut list = ImageList::parse(input).expect("read before");
        let losers = list.move_name(NAME, &id);
        let list = ImageList::parse(list.pieces().concat()).expect("what was written can be read");
        assert!(list.names(&id).iter().any(|name| name == NAME), "{id}");
        let now = texts(&list.pieces().concat());
        assert_eq!(now.len(), before.len());
        assert_eq!(now.iter().filter(|text| has_name(text)).count(), 1, "{id}");
        let had = before.iter().filter(|text| has_name(text)).count();
        assert!(losers.len() <= had, "{losers:?} lost it, and {had} had it");
        let changed = before.iter().zip(&now).filter(|(before, now)| before != now).count();
        assert!(changed <= had + 1, "{changed} entries changed, and {had} had the name");
        if let Ok(name) = ImageName::for_storing(NAME) {
            assert!(list.id_of_name(&name).is_some());
        }
    }
}

/// Whether an entry has the name.
fn has_name(text: &str) -> bool {
    let list = ImageList::parse(format!("[{text}]")).expect("an entry");
    list.all_names().values().flatten().any(|name| name == NAME)
}

/// How many entries have this id.
fn texts_of(texts: &[String], id: &str) -> usize {
    texts.iter().filter(|text| ImageList::parse(format!("[{text}]")).is_ok_and(|list| list.has(id))).count()
}

fn removed(input: &[u8], before: &[String]) {
    for id in ids(input) {
        let mut list = ImageList::parse(input).expect("read before");
        let tops = list.tops_of(&id);
        assert!(tops.iter().all(|top| list.top_layers().contains(top)));
        list.remove(&BTreeSet::from([id.clone()]));
        assert!(list.changed() && !list.has(&id));
        assert_eq!(texts(&list.pieces().concat()).len(), before.len() - texts_of(before, &id));
    }
}

fn added(input: &[u8], before: &[String]) {
    let mut list = ImageList::parse(input).expect("read before");
    let hash = Sha256::from([0xff; 32]);
    let id = ImageId::from(hash);
    if list.has(&id) {
        return;
    }
    list.add(&Image::new(id, hash.into(), Vec::new(), hash.into(), "2026-01-01T00:00:00Z", &[])).expect("an entry");
    let list = ImageList::parse(list.pieces().concat()).expect("what was written can be read");
    assert_eq!(list.get(&id).as_ref().and_then(|entry| entry.get("layer")), Some(&Value::from(hash.as_str())));
    assert_eq!(texts(&list.pieces().concat())[..before.len()], *before);
}
