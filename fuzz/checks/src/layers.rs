//! Podman's list of layers, which other tools write too.

use std::collections::BTreeSet;

use parallax_format::digest::{DiffId, Digest, LayerId};
use parallax_format::podman::Layer;
use parallax_store::podman_lists::LayerList;
use parallax_store::read::LayerSizes;

/// Any bytes are refused, or are a list that comes back as it was; chains of layers end, whatever their parents are, and
/// nothing of a layer's changes with another one.
///
/// # Panics
/// If it is not so.
pub fn check(input: &[u8]) {
    let sizes = LayerSizes::parse(input).ok();
    let Ok(list) = LayerList::parse(input) else {
        // What a reader skips may hold any bytes; writers copy it, and only text.
        assert!(sizes.is_none() || std::str::from_utf8(input).is_err(), "a reader takes it, a writer does not");
        return;
    };
    let again = LayerList::parse(list.pieces().concat()).expect("what was written can be read");
    assert_eq!(
        (list.ids(), list.diff_ids(), list.pieces().concat()),
        (again.ids(), again.diff_ids(), again.pieces().concat())
    );
    let ids = list.ids();
    assert!(list.with_parents(ids.clone()).is_superset(&ids));
    for id in ids.iter().take(3) {
        if let Some(sizes) = &sizes {
            let _ = sizes.of_chain(id);
        }
        sized(input, id);
        removed(input, id);
    }
    added(list);
}

fn sized(input: &[u8], id: &str) {
    let mut list = LayerList::parse(input).expect("read before");
    let (before, parents) = (list.ids(), list.with_parents([id.to_owned()]));
    list.set_size(id, 12_345);
    let list = LayerList::parse(list.pieces().concat()).expect("what was written can be read");
    assert_eq!((list.ids(), list.with_parents([id.to_owned()])), (before, parents));
}

fn removed(input: &[u8], id: &str) {
    let mut list = LayerList::parse(input).expect("read before");
    let mut ids = list.ids();
    list.remove(&BTreeSet::from([id.to_owned()]));
    ids.remove(id);
    assert_eq!(LayerList::parse(list.pieces().concat()).expect("what was written can be read").ids(), ids);
}

fn added(mut list: LayerList) {
    let id = LayerId::parse(&"f".repeat(64)).expect("an id");
    let diff_id = DiffId::parse(&"e".repeat(64)).expect("a diffID");
    let layer = Layer {
        id,
        parent: list.ids().iter().find_map(|id| LayerId::parse(id)),
        created: "2026-01-01T00:00:00Z".to_owned(),
        diff_digest: Digest::from(diff_id),
        diff_size: 1,
        uidmap: Vec::new(),
        gidmap: Vec::new(),
    };
    let known = list.ids().contains(id.as_str());
    list.add(&layer).expect("an entry");
    let list = LayerList::parse(list.pieces().concat()).expect("what was written can be read");
    assert!(list.get(&id).is_some() && (known || list.diff_ids().contains(&diff_id)));
}
