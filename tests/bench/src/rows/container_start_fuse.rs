//! How much longer a container takes to start through the mount program than from a local image.

use super::{Row, mount_program};
use crate::report::{Figure, Measured};
use crate::sampler::Candidate;
use crate::session::{IMAGE, Session};
use crate::statistics::Summary;

/// The row.
pub(super) const ROW: Row = Row { id: "container_start_fuse", measure };

const WHAT: &str = "`podman run --rm IMG true` through the mount program / from the same image pulled locally";
const PEER: &str = "the same through the other mount program";

fn measure(session: &Session) -> anyhow::Result<Measured> {
    let mut measured = Measured::default();
    let ours = compare(session, ROW.id, mount_program::PROGRAM, &mut measured)?;
    measured.figures.push(Figure::new(ROW.id, WHAT, ours, "").at_most(1.5));
    if let Some(peer) = session.peer() {
        let ratio = compare(session, "peer_container_start_fuse", &peer, &mut measured)?;
        measured.figures.push(Figure::new("peer_container_start_fuse", PEER, ratio, ""));
    }
    Ok(measured)
}

/// Compares one with the local image; notes the times themselves.
fn compare(session: &Session, id: &str, program: &str, measured: &mut Measured) -> anyhow::Result<Summary> {
    let run = Candidate::new(&format!("podman run --rm {IMAGE} true"));
    let local = run.clone().with(session.local()?.environment());
    let samples = session.with_mount_program(program, |podman| {
        session.sample_in_step(vec![run.with(podman.environment()), local], 120)
    })?;
    let times = samples.milliseconds::<2>()?;
    let median = |side: usize| Summary::of(times.iter().map(|round| round[side])).median;
    measured.notes.push(format!("{id}: {:.1} ms, {:.1} ms from the local image.", median(0), median(1)));
    Ok(Summary::of(times.iter().map(|[mounted, local]| mounted / local)))
}
