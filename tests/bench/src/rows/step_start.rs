//! How much longer a step takes with an image than without, and where that time goes.

use std::fs;

use anyhow::Context as _;

use super::Row;
use crate::report::{Figure, Measured};
use crate::sampler::{Candidate, Samples};
use crate::session::{IMAGE, Session};
use crate::statistics::Summary;

/// The row.
pub(super) const ROW: Row = Row { id: "step_start", measure };

const WHAT: &str =
    "(`srun --parallax-image=IMG true` - `srun true`, as steps of one job) / local `podman run --rm IMG true`";
const WHAT_KEPT: &str =
    "the same where the job's layers stay mounted (`agent.keep_for_job`), as steps of one batch job";

/// The parts of a start, in the order in which they come.
const PARTS: [(&str, &str); 4] = [
    ("step_start_lease", "of it: the agent finds the image"),
    ("step_start_mounts", "of it: the agent mounts the layers and makes the step store"),
    ("step_start_container", "of it: the launcher makes the container"),
    ("step_start_join", "of it: the task joins the container"),
];

const FLOOR: &str = "the bare system calls of the container, by hand";

/// How long each of [`PARTS`] took, in milliseconds.
type Parts = [f64; 4];

fn measure(session: &Session) -> anyhow::Result<Measured> {
    let srun = "srun --overlap --ntasks=1";
    let timings = [("PARALLAX_TIMINGS".to_owned(), "1".to_owned())];
    let commands = vec![
        Candidate::new(&format!("{srun} true")),
        Candidate::new(&format!("{srun} --parallax-image={IMAGE} true")).with(timings),
        Candidate::new(&format!("podman run --rm {IMAGE} true")).with(session.local()?.environment()),
    ];
    let log_length = fs::metadata(session.agent_log())?.len();
    let samples = session.sample_in_allocation(commands.clone(), 120)?;
    let log = fs::read(session.agent_log())?;
    let log = String::from_utf8_lossy(log.get(usize::try_from(log_length)?..).unwrap_or_default());

    let times = samples.milliseconds::<3>()?;
    let parts = parts(&samples, &log)?;
    let ratio = times.iter().map(|[plain, image, local]| (image - plain) / local);
    let rest = times.iter().zip(&parts).map(|([plain, image, _], parts)| image - plain - parts.iter().sum::<f64>());
    let kept = session.sample_with_layers_kept(commands, 60)?.milliseconds::<3>()?;
    let kept = Summary::of(kept.iter().map(|[plain, image, local]| (image - plain) / local));
    let of_part = |part: usize| Summary::of(parts.iter().map(|parts| parts[part]));
    let mut figures = vec![Figure::new(ROW.id, WHAT, Summary::of(ratio), "").at_most(0.15)];
    figures.push(Figure::new("step_start_kept", WHAT_KEPT, kept, ""));
    figures.extend(PARTS.iter().enumerate().map(|(part, (id, what))| Figure::new(id, what, of_part(part), "ms")));

    let bare: Vec<f64> = session.on_node_as_root("bare-container", 120)?;
    let bare = Summary::of(bare);
    figures.push(Figure::new("step_start_floor", FLOOR, bare, "ms"));

    let [plain, image, local] = [0, 1, 2].map(|side| Summary::of(times.iter().map(|round| round[side])).median);
    let [lease, mounts, container, join] = [0, 1, 2, 3].map(|part| of_part(part).median);
    let rest = Summary::of(rest).median;
    let note = format!(
        "step_start: {image:.1} ms with the image, {plain:.1} ms without, {local:.1} ms for Podman alone. What the image \
         takes is lease {lease:.2} ms, mounts {mounts:.2} ms, container {container:.2} ms, join {join:.2} ms and \
         {rest:.2} ms of all else. The bare system calls of the container take {:.2} ms.",
        bare.median
    );
    Ok(Measured { figures, notes: vec![note] })
}

/// The parts of each sample's start, from what the agent logged and the launcher said.
fn parts(samples: &Samples, log: &str) -> anyhow::Result<Vec<Parts>> {
    let job = samples.job.as_deref().context("the samples are of no job")?;
    let granted = granted(log, job);
    // The warm-ups come first.
    let skip = granted.len().checked_sub(samples.rounds.len());
    let granted = granted.get(skip.with_context(|| format!("the agent's log misses steps of job {job}"))?..);
    granted
        .unwrap_or_default()
        .iter()
        .zip(&samples.rounds)
        .map(|(&(lease, mounts), round)| {
            let said = round.get(1).map_or("", |sample| sample.stderr.as_str());
            let (container, join) = launched(said).with_context(|| format!("no timings in {said:?}"))?;
            Ok([lease, mounts, container, join])
        })
        .collect()
}

/// What the agent took for each step of a job: to find the image, and for all the rest; in milliseconds.
fn granted(log: &str, job: &str) -> Vec<(f64, f64)> {
    let of_job = format!(" step={job}.");
    let lines = log.lines().filter(|line| line.contains(": granted ") && line.contains(&of_job));
    lines
        .filter_map(|line| {
            let part = |name| milliseconds_after(line, name);
            Some((part("resolve: ")?, part("layers: ")? + part("step_store: ")?))
        })
        .collect()
}

/// What the launcher took to make the container and to join it, in milliseconds.
fn launched(said: &str) -> Option<(f64, f64)> {
    Some((milliseconds_after(said, "container ")?, milliseconds_after(said, "join ")?))
}

/// The microseconds that follow `name` in the text, as milliseconds.
fn milliseconds_after(text: &str, name: &str) -> Option<f64> {
    let (_, after) = text.split_once(name)?;
    let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
    Some(digits.parse::<f64>().ok()? / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_log_has_the_parts_of_a_lease() {
        let log = "T INFO parallax_agent::lease::acquire: granted step=3.5 uid=1001 image=\"debian\" \
                   timings=Timings { resolve: 76, layers: 1116, step_store: 2073 }\n\
                   T INFO parallax_agent::lease: released step=3.5 uid=1001\n\
                   T INFO parallax_agent::lease::acquire: granted step=31.0 uid=1001 image=\"a\" \
                   timings=Timings { resolve: 1, layers: 1, step_store: 1 }\n";
        assert_eq!(granted(log, "3"), [(0.076, 3.189)]);
        assert!(granted(log, "1").is_empty());
    }

    #[test]
    fn the_launcher_tells_the_other_parts() {
        assert_eq!(launched("parallax: container 54961 us, join 45 us\n"), Some((54.961, 0.045)));
        assert_eq!(launched("something else"), None);
    }
}
