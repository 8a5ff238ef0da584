//! `/etc/subuid` and `/etc/subgid`, and the id maps that are made of them.

use parallax_agent::identity::{Ids, NamespaceKind, Subordinate};

/// Of any text come ranges, and maps of them, in which no id inside is there twice and none outside is anybody else's.
///
/// # Panics
/// If one is.
pub fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    for own in [0, 1001, 70_000, u32::MAX - 1] {
        let Subordinate { ranges: subordinate, .. } = Subordinate::parse(&text, "u1", 1001, own);
        assert!(subordinate.is_sorted());
        let ids = Ids { own, subordinate };
        let _ = ids.podman_keep_id_map();
        for kind in [NamespaceKind::Plain, NamespaceKind::KeepId] {
            sound(&ids, kind);
        }
    }
}

fn sound(ids: &Ids, kind: NamespaceKind) {
    let mut next = 0;
    let mut outside: Vec<(u64, u64)> = Vec::new();
    for range in ids.map(kind) {
        assert!(range.count > 0 && u64::from(range.inside) >= next, "{ids:?}: {range:?}");
        next = u64::from(range.inside) + u64::from(range.count);
        let (first, end) = (u64::from(range.outside), u64::from(range.outside) + u64::from(range.count));
        // The kernel refuses a map with an id twice.
        assert!(outside.iter().all(|&(start, stop)| end <= start || stop <= first), "{ids:?}: {range:?}");
        outside.push((first, end));
        let own = range.outside == ids.own && range.count == 1;
        let subordinate = ids
            .subordinate
            .iter()
            .any(|known| u64::from(known.start) <= first && end <= u64::from(known.start) + u64::from(known.count));
        assert!(own || subordinate, "{ids:?}: {range:?}");
        assert!(ids.covers(kind, range.inside), "{ids:?}: {range:?}");
    }
}
