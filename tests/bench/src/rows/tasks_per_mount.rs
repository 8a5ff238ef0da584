//! How a step with an image grows with the tasks of a node: they share one container, so only joining it comes once a task.

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

fn measure(session: &Session) -> anyhow::Result<Measured> {
    let (mut figures, mut notes) = (Vec::new(), Vec::new());
    for (tasks, id, rounds) in TASKS {
        let srun = |image: &str| Candidate::new(&format!("srun --overlap --overcommit --ntasks={tasks} {image} true"));
        let commands = vec![srun(""), srun(&format!("--parallax-image={IMAGE}"))];
        let times = session.sample_in_allocation(commands, rounds)?.milliseconds()?;
        let ratio = Summary::of(times.iter().map(|[plain, image]| image / plain));
        let [plain, image] = [0, 1].map(|side: usize| Summary::of(times.iter().map(|round| round[side])).median);
        notes.push(format!("{tasks} tasks: {image:.1} ms with an image, {plain:.1} ms without"));
        figures.push(match TASKS.last() {
            Some((most, ..)) if *most == tasks => Figure::new(ROW.id, WHAT, ratio, "").at_most(1.15),
            _ => Figure::new(id, OTHER, ratio, ""),
        });
    }
    figures.rotate_right(1);
    Ok(Measured { figures, notes: vec![format!("tasks_per_mount: {}.", notes.join("; "))] })
}
