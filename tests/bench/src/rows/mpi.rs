//! What MPI programs lose in a container: nothing, since they use the same memory and the same devices.

use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;

use super::Row;
use crate::report::{Figure, Measured};
use crate::sampler::{Candidate, Samples};
use crate::session::Session;
use crate::statistics::Summary;

/// The row.
pub(super) const ROW: Row = Row { id: "mpi_latency", measure };

const LATENCY: &str =
    "the time of a message of 8 bytes between two ranks of a node, in the image / outside with the same library";
const BANDWIDTH: &str = "the time of 16 MiB in messages of 1 MiB between two ranks of a node, in the image / outside";

const IMAGE: &str = "openmpi";
const PROGRAM: &str = "usr/bin/mpi-check";
/// What the program is asked for.
const LATENCY_ORDER: &str = "latency 100000";
const BANDWIDTH_ORDER: &str = "bandwidth 40";
const ROUNDS: usize = 24;

fn measure(session: &Session) -> anyhow::Result<Measured> {
    session.migrate(IMAGE)?;
    let outside = unpacked(session)?;
    let srun = "srun --mpi=pmix --overlap --ntasks=2";
    let libraries = format!("{outside}/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let variables = [("LD_LIBRARY_PATH".to_owned(), libraries), ("OPAL_PREFIX".to_owned(), format!("{outside}/usr"))];
    // What the program prints is kept of its standard error.
    let shell = |line: String| Candidate {
        command: vec!["sh".into(), "-c".into(), format!("{line} >&2")],
        ..Candidate::new("")
    };
    let inside = |order: &str| shell(format!("{srun} --parallax-image={IMAGE} /{PROGRAM} {order}"));
    let outside = |order: &str| shell(format!("{srun} {outside}/{PROGRAM} {order}")).with(variables.clone());
    let commands =
        vec![inside(LATENCY_ORDER), outside(LATENCY_ORDER), inside(BANDWIDTH_ORDER), outside(BANDWIDTH_ORDER)];
    let values = values(&session.sample_in_allocation(commands, ROUNDS)?)?;

    let latency = Summary::of(values.iter().map(|[inside, outside, ..]| inside / outside));
    let bandwidth = Summary::of(values.iter().map(|[.., inside, outside]| outside / inside));
    let of = |side: usize| Summary::of(values.iter().map(|round| round[side])).median;
    let note = format!(
        "mpi_latency: {:.3} us in the image, {:.3} us outside. mpi_bandwidth: {:.0} MB/s in the image, {:.0} MB/s outside.",
        of(0),
        of(1),
        of(2),
        of(3)
    );
    let figures = vec![
        Figure::new(ROW.id, LATENCY, latency, "").at_most(1.05),
        Figure::new("mpi_bandwidth", BANDWIDTH, bandwidth, "").at_most(1.05),
    ];
    Ok(Measured { figures, notes: vec![note] })
}

/// Unpacks the image's own layer beside the cluster's files, for a run outside. Returns the directory as nodes see it.
fn unpacked(session: &Session) -> anyhow::Result<String> {
    let said = session.run("root", &["parallax", "inspect", "--json", IMAGE])?.stdout;
    let image: Value = serde_json::from_str(&said)?;
    let top = image.pointer("/layers").and_then(Value::as_array).and_then(|layers| layers.last());
    let file = top.and_then(|layer| layer.get("file")).and_then(Value::as_str);
    let file = file.with_context(|| format!("no layer in {said}"))?;
    let directory = format!("{}/{IMAGE}", session.directory());
    // Another run of this row has left it.
    if !session.directory_here().join(Path::new(IMAGE)).exists() {
        session.run("root", &["unsquashfs", "-quiet", "-no-progress", "-dest", &directory, file])?;
    }
    Ok(directory)
}

/// What the program printed in each round.
fn values(samples: &Samples) -> anyhow::Result<Vec<[f64; 4]>> {
    let rounds = samples.rounds.iter().map(|round| {
        let said = |at: usize| round.get(at).map_or("", |sample| sample.stderr.trim());
        let value = |at: usize| said(at).parse::<f64>().with_context(|| format!("the program printed {:?}", said(at)));
        Ok([value(0)?, value(1)?, value(2)?, value(3)?])
    });
    rounds.collect()
}
