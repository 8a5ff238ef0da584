//! What each further task on a node costs beyond what Slurm itself takes to start it.

use super::Row;
use crate::report::{Figure, Measured};
use crate::sampler::Candidate;
use crate::session::Session;
use crate::statistics::Summary;

/// The row.
pub(super) const ROW: Row = Row { id: "extra_task", measure };

const WHAT: &str = "each task of `srun -n8` with an image beyond the first, less what it takes without one";
const RAW: &str = "the same with what Slurm takes for it";

fn measure(session: &Session) -> anyhow::Result<Measured> {
    let srun = |tasks, image| Candidate::new(&format!("srun --overlap --ntasks={tasks} {image} true"));
    let image = "--parallax-image=localhost/debian";
    let commands = vec![srun(1, ""), srun(8, ""), srun(1, image), srun(8, image)];
    let times = session.sample_in_allocation(commands, 160)?.milliseconds()?;
    let extra = Summary::of(
        times.iter().map(|[one, eight, one_image, eight_image]| ((eight_image - one_image) - (eight - one)) / 7.0),
    );
    let raw = Summary::of(times.iter().map(|[_, _, one_image, eight_image]| (eight_image - one_image) / 7.0));
    let figures =
        vec![Figure::new(ROW.id, WHAT, extra, "ms").at_most(1.5), Figure::new("extra_task_raw", RAW, raw, "ms")];
    let [one, eight, one_image, eight_image] =
        [0, 1, 2, 3].map(|side| Summary::of(times.iter().map(|round| round[side])).median);
    let note = format!(
        "extra_task: {one:.1} ms for one task and {eight:.1} ms for eight without an image, {one_image:.1} ms and \
         {eight_image:.1} ms with one."
    );
    Ok(Measured { figures, notes: vec![note] })
}
