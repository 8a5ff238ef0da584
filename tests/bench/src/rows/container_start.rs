//! How much longer a container takes to start from the step store than from a local image.

use super::Row;
use crate::report::{Figure, Measured};
use crate::sampler::Candidate;
use crate::session::{IMAGE, Session};
use crate::statistics::Summary;

/// The row.
pub(super) const ROW: Row = Row { id: "container_start", measure };

const WHAT: &str = "`podman run --rm IMG true` in a step, from its store / from the same image pulled locally";

fn measure(session: &Session) -> anyhow::Result<Measured> {
    let (ratio, note) = compare(session, ROW.id, "")?;
    Ok(Measured { figures: vec![Figure::new(ROW.id, WHAT, ratio, "").at_most(1.10)], notes: vec![note] })
}

/// Compares the two with further options for Podman; returns the ratio, and a note with the times themselves.
pub(super) fn compare(session: &Session, id: &str, options: &str) -> anyhow::Result<(Summary, String)> {
    let run = Candidate::new(&format!("podman run --rm {options} {IMAGE} true"));
    let local = run.clone().with(session.local()?.environment());
    let samples = session.sample_in_step(vec![run, local], 120)?;
    let times = samples.milliseconds::<2>()?;
    let ratio = Summary::of(times.iter().map(|[step, local]| step / local));
    let [step, local] = [0, 1].map(|side| Summary::of(times.iter().map(|round| round[side])).median);
    let note = format!("{id}: {step:.1} ms from the step store, {local:.1} ms from the local image.");
    Ok((ratio, note))
}
