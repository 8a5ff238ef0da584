//! What the mount program takes beyond what it starts and mounts.

use std::fs;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::Row;
use crate::overlays::OverlaysPlan;
use crate::report::{Figure, Measured};
use crate::session::{IMAGE, Session};
use crate::statistics::Summary;

/// The row.
pub(super) const ROW: Row = Row { id: "mount_program", measure };

/// Where the program is on the node.
pub(super) const PROGRAM: &str = "/usr/libexec/parallax/parallax-mount-program";

const WHAT: &str =
    "the mount program, from exec to a ready overlay on one layer / squashfuse_ll and the overlay by hand";
const WITH_ID_MAP: &str = "the same with an id map / squashfuse_ll and fuse-overlayfs by hand";
const PEER: &str = "the other mount program / squashfuse_ll and the overlay by hand";
const PEER_WITH_ID_MAP: &str = "the other mount program with an id map / squashfuse_ll and fuse-overlayfs by hand";

fn measure(session: &Session) -> anyhow::Result<Measured> {
    let mut measured = Measured::default();
    let lower = layer(session)?;
    let map = "uidmapping=:0:0:1:1:1:65536,gidmapping=:0:0:1:1:1:65536".to_owned();
    for (id, what, peer_id, peer_what, id_map) in [
        (ROW.id, WHAT, "peer_mount_program", PEER, None),
        ("mount_program_id_map", WITH_ID_MAP, "peer_mount_program_id_map", PEER_WITH_ID_MAP, Some(map)),
    ] {
        let mut programs = vec![PROGRAM.to_owned()];
        programs.extend(session.peer());
        let plan = OverlaysPlan { lower: lower.clone(), id_map, programs, warm_ups: 0, rounds: 200 };
        let samples = session.sample_overlays(session.local()?, plan)?;
        let times: Vec<Vec<f64>> = samples
            .rounds
            .iter()
            .map(|round| round.iter().map(|sample| sample.elapsed.as_secs_f64() * 1000.0).collect())
            .collect();
        ensure!(times.iter().all(|round| round.len() >= 2), "a round misses samples");
        let ratio = |index: usize| Summary::of(times.iter().map(|round| round[index] / round[0]));
        let median = |index: usize| Summary::of(times.iter().map(|round| round[index])).median;
        measured.figures.push(Figure::new(id, what, ratio(1), "").at_most(1.3));
        let mut note = format!("{id}: {:.2} ms, by hand {:.2} ms", median(1), median(0));
        if session.peer().is_some() {
            measured.figures.push(Figure::new(peer_id, peer_what, ratio(2), ""));
            note.push_str(&format!(", the other one {:.2} ms", median(2)));
        }
        measured.notes.push(note + ".");
    }
    Ok(measured)
}

/// The image's one layer, as Podman names it to the program.
fn layer(session: &Session) -> anyhow::Result<String> {
    let store = session.cluster().shared().join("store");
    let images: Vec<Value> = serde_json::from_slice(&fs::read(store.join("overlay-images/images.json"))?)?;
    let has_name = |image: &&Value| {
        let names = image["names"].as_array().into_iter().flatten().filter_map(Value::as_str);
        names.into_iter().any(|name| name.starts_with(&format!("{IMAGE}:")))
    };
    let layer = images.iter().find(has_name).and_then(|image| image["layer"].as_str());
    let layer = layer.with_context(|| format!("{IMAGE} is not in the store"))?;
    let link = fs::read_to_string(store.join("overlay").join(layer).join("link"))?;
    Ok(format!("/shared/store/overlay/l/{}", link.trim()))
}
