//! Images whose files have owners without ids on the node: these files show as owned by nobody.
//!
//! Podman cannot unpack such an image at all. Here layers are mounted, so only the files concerned show as owned by nobody. Owners
//! up to [`MAX_USUAL_ID`] are covered by a range as `useradd` gives it, which the administrator can add; for higher ids
//! no range is worth requesting; they belong mostly to a few files that a build user left.

use parallax_format::record::ImageRecord;
use parallax_protocol::message::{LeaseRequest, Mode};

use super::refusal::Refusal;
use crate::identity::{Identity, Ids, NamespaceKind};

/// The highest id that a usual range of subordinate ids covers.
const MAX_USUAL_ID: u32 = 65_535;

/// Returns the chains of layers that a step needs. In `run` mode the launcher makes the one container.
pub(super) fn namespaces(request: &LeaseRequest) -> &'static [NamespaceKind] {
    match (request.mode, request.as_root) {
        (Mode::Run, false) => &[NamespaceKind::KeepId],
        (Mode::Run, true) => &[NamespaceKind::Plain],
        (Mode::Podman, _) => &[NamespaceKind::Plain, NamespaceKind::KeepId],
    }
}

/// Returns the user namespace that the step's processes enter: that of the container of `run` mode, or Podman's.
pub(super) fn entered(request: &LeaseRequest) -> NamespaceKind {
    match (request.mode, request.as_root) {
        (Mode::Run, false) => NamespaceKind::KeepId,
        (Mode::Run, true) | (Mode::Podman, _) => NamespaceKind::Plain,
    }
}

/// The need of an image for ids of one kind.
struct Need<'a> {
    ids: &'a Ids,
    /// The highest owner, no more than [`MAX_USUAL_ID`].
    highest: u32,
    what: &'static str,
    source: String,
}

fn needs<'a>(image: &ImageRecord, identity: &'a Identity) -> [Need<'a>; 2] {
    let (uid, gid) = image.max_ids();
    [
        Need {
            ids: &identity.users,
            highest: uid.min(MAX_USUAL_ID),
            what: "user",
            source: identity.source_of("/etc/subuid"),
        },
        Need {
            ids: &identity.groups,
            highest: gid.min(MAX_USUAL_ID),
            what: "group",
            source: identity.source_of("/etc/subgid"),
        },
    ]
}

/// Refuses an image of which all files would show as owned by nobody and, in `podman` mode, an image for which Podman itself
/// needs more subordinate ids.
pub(super) fn check(request: &LeaseRequest, image: &ImageRecord, identity: &Identity) -> Result<(), Refusal> {
    let (name, mode) = (&request.image, request.mode);
    // Podman's default namespace comes first where there is a choice; it is the one that needs less.
    let Some(&kind) = namespaces(request).first() else { return Ok(()) };
    for Need { ids, highest, what, source } in needs(image, identity) {
        let user = &identity.name;
        // Root gets no container that lacks ids of the image: Podman starts none, and there would be no ids to ask for.
        if identity.users.own == 0 && !ids.covers(kind, highest) {
            return Err(Refusal::user(format!(
                "the image \"{name}\" has files of other {what}s than root (up to the id {highest}), and {user} has no subordinate \
                 {what} ids on this node; start the step as an ordinary user"
            )));
        }
        if ids.covers(kind, 0) && (mode == Mode::Run || ids.covers(kind, highest)) {
            continue;
        }
        let count = ids.subordinate_count();
        let has = if count == 0 { "none".to_owned() } else { format!("only {count}") };
        return Err(Refusal::administrator(format!(
            "the image \"{name}\" needs subordinate {what} ids up to {highest}, and the user {user} has {has} on this node; \
             ask the administrator to add a range of 65536 to {source}"
        )));
    }
    Ok(())
}

/// Returns the notice for a user whose range is smaller than usual and smaller than the image needs.
pub(super) fn notice(request: &LeaseRequest, image: &ImageRecord, identity: &Identity) -> Option<String> {
    let name = &request.image;
    let &kind = namespaces(request).first()?;
    let short = needs(image, identity).into_iter().find(|need| !need.ids.covers(kind, need.highest))?;
    let Need { ids, highest, what, source } = short;
    let (user, count) = (&identity.name, ids.subordinate_count());
    Some(format!(
        "the image \"{name}\" has files of {what} ids up to {highest}, and the user {user} has only {count} subordinate ids on \
         this node: files of the others look like nobody's; ask the administrator to add a range of 65536 to {source}"
    ))
}

#[cfg(test)]
mod tests {
    use parallax_format::record::{LayerRecord, VERSION};
    use parallax_store::hash::link_of_layer;

    use super::*;
    use crate::identity::SubordinateRange;

    fn image(max_uid: u32) -> ImageRecord {
        let hex = "ab".repeat(32);
        let layer = LayerRecord {
            id: hex.parse().unwrap(),
            link: link_of_layer(&hex),
            diff_id: hex.parse().unwrap(),
            size: 1,
            format: parallax_format::LayerFormat::Squashfs,
            squashfs_size: 1,
            squashfs_sha256: hex.parse().ok(),
            max_uid,
            max_gid: 0,
            sidecar: false,
            tree: None,
            parts: Vec::new(),
        };
        ImageRecord {
            version: VERSION,
            id: hex.parse().unwrap(),
            digest: format!("sha256:{hex}").parse().unwrap(),
            other_digests: Vec::new(),
            names: Vec::new(),
            created: String::new(),
            manifest: String::new(),
            config: String::new(),
            layers: vec![layer],
        }
    }

    fn request(mode: Mode) -> LeaseRequest {
        let step = parallax_protocol::message::StepId { job: 1, step: 0, restart: 0 };
        let (image, image_id, groups, memory) = ("a".into(), None, None, None);
        LeaseRequest {
            step,
            uid: 1001,
            gid: 1001,
            groups,
            image,
            image_id,
            mode,
            memory,
            as_root: false,
            container: None,
            rule: None,
        }
    }

    fn user(count: u32) -> Identity {
        let ranges = if count == 0 { Vec::new() } else { vec![SubordinateRange { start: 100_000, count }] };
        let ids = || Ids { own: 1001, subordinate: ranges.clone() };
        Identity { name: "u1".into(), home: None, users: ids(), groups: ids(), subid_module: None }
    }

    #[test]
    fn owners_beyond_any_usual_range_do_not_matter() {
        for mode in [Mode::Run, Mode::Podman] {
            assert!(check(&request(mode), &image(1_516_583_083), &user(65_536)).is_ok(), "{mode:?}");
            assert_eq!(notice(&request(mode), &image(1_516_583_083), &user(65_536)), None);
        }
    }

    #[test]
    fn only_a_range_that_can_be_had_is_asked_for() {
        for (highest, count, mode) in [(7, 0, Mode::Run), (999, 10, Mode::Podman), (1_516_583_083, 10, Mode::Podman)] {
            let refusal = check(&request(mode), &image(highest), &user(count)).unwrap_err();
            assert_eq!(refusal.kind, crate::lease::RefusalKind::Administrator);
            let sentence = refusal.message;
            assert!(sentence.ends_with("ask the administrator to add a range of 65536 to /etc/subuid"), "{sentence}");
            assert!(!sentence.contains("1516583083"), "{sentence}");
        }
        assert!(check(&request(Mode::Run), &image(999), &user(10)).is_ok());
        let notice = notice(&request(Mode::Run), &image(999), &user(10)).unwrap();
        assert!(notice.contains("up to 999") && notice.contains("only 10"), "{notice}");
    }

    /// Its files are the user's own, so no other id is needed.
    #[test]
    fn root_in_the_container_needs_no_subordinate_ids() {
        let as_root = LeaseRequest { as_root: true, ..request(Mode::Run) };
        assert!(check(&as_root, &image(7), &user(0)).is_ok());
        assert!(notice(&as_root, &image(7), &user(0)).is_some());
        assert_eq!(notice(&as_root, &image(0), &user(0)), None);
        assert_eq!((namespaces(&as_root), entered(&as_root)), (&[NamespaceKind::Plain][..], NamespaceKind::Plain));
    }
}
