//! What many containers of one image cost the node: no process but their own, and nothing in memory twice.

use std::fs::File;
use std::io;
use std::process::Command;

use anyhow::{Context as _, ensure};

use super::Row;
use crate::report::{Figure, Measured};
use crate::session::{IMAGE, NODE, Session, USER};
use crate::statistics::Summary;
use integration_tests::clean::wait_for_steps;
use integration_tests::cluster::Done;
use integration_tests::held::HeldStep;

/// The row.
pub(super) const ROW: Row = Row { id: "mount_processes", measure };

const PROCESSES: &str =
    "processes on the node beyond Podman's own two for each container, with 1 to 32 containers of an image";
const MEMORY: &str = "the part of a file that one container has read and that each of the others would read once more";

/// How many containers there are.
const CONTAINERS: [usize; 3] = [1, 8, 32];
/// A file of the image that nothing runs.
const FILE: &str = "usr/bin/perl";

fn measure(session: &Session) -> anyhow::Result<Measured> {
    let (mut helpers, mut memory) = (Vec::new(), Vec::new());
    for count in CONTAINERS {
        let (extra, read_again) = with_containers(session, count).with_context(|| format!("{count} containers"))?;
        helpers.push(extra);
        memory.push(read_again);
    }
    let all = |values: &[f64]| values.iter().map(|value| format!("{value:.3}")).collect::<Vec<_>>().join(", ");
    let note = format!(
        "mount_processes: with {CONTAINERS:?} containers {} helpers; {} read again.",
        all(&helpers),
        all(&memory)
    );
    let most = |values: &[f64]| Summary { median: values.iter().copied().fold(f64::MIN, f64::max), spread: 0.0 };
    let figures = vec![
        Figure::new(ROW.id, PROCESSES, most(&helpers), "").at_most(0.0),
        Figure::new("mount_memory", MEMORY, most(&memory), "").at_most(0.0),
    ];
    Ok(Measured { figures, notes: vec![note] })
}

/// The processes that are neither a container's own nor there without containers, and what part of a file is in memory twice.
fn with_containers(session: &Session, count: usize) -> anyhow::Result<(f64, f64)> {
    // The first container has Podman make what it keeps for the user.
    let script = format!(
        "podman run --rm {IMAGE} true; echo ready; read go; i=0; while [ $i -lt {count} ]; do \
         podman run --detach {IMAGE} sleep infinity >>ids; i=$((i+1)); done; \
         echo $(podman inspect --format '{{{{.State.Pid}}}}' $(cat ids)); rm ids"
    );
    let arguments = ["--nodelist", NODE, "--ntasks=1", "--parallax-mode=podman", &format!("--parallax-image={IMAGE}")];
    let mut step = HeldStep::start(session.cluster(), USER, &arguments, 1, &script)?;
    let before = processes(session)?;
    step.write_line("go")?;
    let pids = step.read_line()?;
    let pids: Vec<&str> = pids.split_whitespace().collect();
    ensure!(pids.len() == count, "{count} containers, but {pids:?}");
    let extra = processes(session)? - before;
    let read_again = read_again(session, &pids)?;
    step.finish()?;
    // The next step's count begins without it.
    wait_for_steps(session.cluster(), NODE)?;
    #[expect(clippy::cast_precision_loss, reason = "a few processes")]
    Ok((extra as f64, read_again))
}

/// Reads a file in the first container and tells what part of it the others still have to read.
fn read_again(session: &Session, pids: &[&str]) -> anyhow::Result<f64> {
    let [first, others @ ..] = pids else { return Ok(0.0) };
    let file = |pid: &str| session.cluster().path_on(NODE, &format!("/proc/{pid}/root/{FILE}"));
    io::copy(&mut File::open(file(first)?)?, &mut io::sink())?;
    let mut worst: f64 = 0.0;
    for pid in others {
        let listed = Command::new("fincore")
            .args(["--bytes", "--noheadings", "--output", "RES,SIZE"])
            .arg(file(pid)?)
            .output()
            .context("fincore")?;
        let listed = Done::from(listed).success()?.stdout;
        let mut fields = listed.split_whitespace().map(str::parse::<f64>);
        let (Some(Ok(resident)), Some(Ok(size))) = (fields.next(), fields.next()) else {
            anyhow::bail!("fincore said {listed:?}");
        };
        worst = worst.max(1.0 - resident / size);
    }
    // What is in memory is counted in whole pages.
    Ok(worst.max(0.0))
}

/// How many processes the node has that are not Podman's own: conmon and the command of each container, and what Podman
/// starts for a moment when one ends.
fn processes(session: &Session) -> anyhow::Result<i64> {
    let listed = session.cluster().run(NODE, "root", &["ps", "-e", "--no-headers", "-o", "comm"])?.success()?;
    let own = ["podman", "conmon", "sleep", "crun", "ps"];
    Ok(i64::try_from(listed.stdout.lines().filter(|name| !own.contains(&name.trim())).count())?)
}
