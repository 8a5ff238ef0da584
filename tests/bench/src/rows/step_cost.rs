//! What a running step with an image takes of the node beside the user's own processes.

use std::fs;

use anyhow::{Context as _, ensure};

use super::Row;
use crate::report::{Figure, Measured};
use crate::session::{IMAGE, NODE, Session, USER};
use crate::statistics::Summary;
use integration_tests::clean::wait_for_steps;
use integration_tests::held::HeldStep;

/// The row.
pub(super) const ROW: Row = Row { id: "step_processes", measure };

const PROCESSES: &str =
    "processes on the node for a step of 8 tasks with an image beyond those of the same step without one";
const MEMORY: &str = "their memory, and what the image adds to that of slurmstepd and the agent (PSS)";

const TASKS: usize = 8;
const ROUNDS: usize = 5;

/// The processes of the node that are not the step's tasks, and what they take of memory in kB.
#[derive(Debug, Clone, Copy)]
struct Cost {
    processes: f64,
    memory: f64,
}

fn measure(session: &Session) -> anyhow::Result<Measured> {
    let (mut processes, mut memory) = (Vec::new(), Vec::new());
    let image = format!("--parallax-image={IMAGE}");
    for _ in 0..ROUNDS {
        let (without, with) = (cost(session, &[])?, cost(session, &[&image])?);
        processes.push(with.processes - without.processes);
        memory.push((with.memory - without.memory) / 1024.0);
    }
    let figures = vec![
        Figure::new(ROW.id, PROCESSES, Summary::of(processes), "").at_most(1.0),
        Figure::new("step_memory", MEMORY, Summary::of(memory), "MB"),
    ];
    Ok(Measured { figures, notes: Vec::new() })
}

fn cost(session: &Session, image: &[&str]) -> anyhow::Result<Cost> {
    let tasks = format!("--ntasks={TASKS}");
    let arguments = [&["--nodelist", NODE, tasks.as_str()], image].concat();
    let step = HeldStep::start(session.cluster(), USER, &arguments, TASKS, "echo started")?;
    let counted = count(session);
    step.finish()?;
    wait_for_steps(session.cluster(), NODE)?;
    counted
}

/// Sums over all processes of the node but the tasks, each of which is a shell and then `cat` (see [`HeldStep`]).
fn count(session: &Session) -> anyhow::Result<Cost> {
    let proc = session.cluster().path_on(NODE, "/proc")?;
    let (mut cost, mut tasks) = (Cost { processes: 0.0, memory: 0.0 }, 0);
    for entry in fs::read_dir(&proc).with_context(|| format!("{}", proc.display()))? {
        let directory = entry?.path();
        // Another process than one of the step's may end meanwhile.
        let Ok(name) = fs::read_to_string(directory.join("comm")) else { continue };
        if ["sh", "cat"].contains(&name.trim()) {
            tasks += 1;
            continue;
        }
        let Ok(rollup) = fs::read_to_string(directory.join("smaps_rollup")) else { continue };
        let pss =
            rollup.lines().find_map(|line| line.strip_prefix("Pss:")).and_then(|text| text.split_whitespace().next());
        cost.processes += 1.0;
        cost.memory += pss.map_or(Ok(0.0), str::parse::<f64>)?;
    }
    ensure!(tasks == TASKS, "{tasks} tasks on the node");
    Ok(cost)
}
