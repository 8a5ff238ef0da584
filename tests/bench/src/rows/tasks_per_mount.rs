//! How a step with an image grows with the tasks of a node: they share one container, so only joining it comes once a task.

use std::process::Command;

use anyhow::Context as _;
use integration_tests::cluster::{Done, repository};

use super::Row;
use crate::report::{Figure, Measured};
use crate::sampler::Candidate;
use crate::session::{IMAGE, Session};
use crate::statistics::Summary;

/// The row.
pub(super) const ROW: Row = Row { id: "tasks_per_mount", measure };

/// Numbers of tasks on the node, with the figure of each, and how often each is measured.
const TASKS: [(usize, &str, usize); 4] = [
    (1, "tasks_per_mount_1", 40),
    (16, "tasks_per_mount_16", 30),
    (128, "tasks_per_mount_128", 16),
    (256, "tasks_per_mount_256", 10),
];
const WHAT: &str = "`srun -n256 --parallax-image=IMG true` / `srun -n256 true`, as steps of one job on one node";
const OTHER: &str = "the same with so many tasks";
const FLOOR: &str =
    "`srun -n256 EXECUTE true` / `srun -n256 true`: EXECUTE is linked statically and executes its arguments";

fn measure(session: &Session) -> anyhow::Result<Measured> {
    let (mut figures, mut notes) = (Vec::new(), Vec::new());
    let execute = build_execute(session)?;
    for (tasks, id, rounds) in TASKS {
        let srun = |image: &str| Candidate::new(&format!("srun --overlap --overcommit --ntasks={tasks} {image} true"));
        let commands = vec![srun(""), srun(&format!("--parallax-image={IMAGE}"))];
        let most = TASKS.last().is_some_and(|(most, ..)| *most == tasks);
        let floor = Candidate::new(&format!("srun --overlap --overcommit --ntasks={tasks} {execute} true"));
        let commands = [commands, vec![floor]].concat();
        let times = session.sample_in_allocation(commands, rounds)?.milliseconds()?;
        let ratio = |side: usize| Summary::of(times.iter().map(|round: &[f64; 3]| round[side] / round[0]));
        let [plain, image] = [0, 1].map(|side: usize| Summary::of(times.iter().map(|round| round[side])).median);
        notes.push(format!("{tasks} tasks: {image:.1} ms with an image, {plain:.1} ms without"));
        if most {
            figures.insert(0, Figure::new(ROW.id, WHAT, ratio(1), "").at_most(1.15));
            figures.push(Figure::new("tasks_per_mount_floor", FLOOR, ratio(2), ""));
        } else {
            figures.push(Figure::new(id, OTHER, ratio(1), ""));
        }
    }
    Ok(Measured { figures, notes: vec![format!("tasks_per_mount: {}.", notes.join("; "))] })
}

/// Builds a program that executes its arguments where the node finds it, and returns its path there.
fn build_execute(session: &Session) -> anyhow::Result<String> {
    let mut compile = Command::new("cc");
    compile.args(["-static", "-O2", "-o"]).arg(session.directory_here().join("execute"));
    compile.arg(repository().join("tests/bench/execute.c"));
    Done::from(compile.output().context("cc")?).success().context("a program that executes others can't be built")?;
    Ok(format!("{}/execute", session.directory()))
}
