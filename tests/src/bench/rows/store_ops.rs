//! What a step asks of the shared store on one node: look-ups of paths, and locks. These are counted, so the machine's speed has no
//! part in them.

use crate::bench::report::{Figure, Measured};
use crate::bench::session::{NODE, Session, USER};
use crate::bench::statistics::Summary;
use crate::clean::wait_for_steps;
use crate::held::HeldStep;
use crate::tracing::{StoreCalls, Trace};

use super::Row;

/// The row.
pub const ROW: Row = Row { id: "store_ops_cold", measure };

const COLD: &str = "path look-ups in the store by a node that has nothing of the image, beyond one for each layer";
const WARM: &str = "path look-ups in the store by a node on which another step has the image";
const LOCKS: &str = "locks taken in the store by any of these steps";

/// The images, with the number of their layers that are distinct.
const IMAGES: [(&str, u32); 2] = [("debian", 1), ("layers40", 40)];
/// How many tasks a step has: their number must not matter.
const TASKS: [&str; 2] = ["--ntasks=1", "--ntasks=8"];

fn measure(session: &Session) -> anyhow::Result<Measured> {
    let (mut cold, mut warm, mut locks) = (Vec::new(), Vec::new(), Vec::new());
    let mut note = String::from("store_ops:");
    for (image, layers) in IMAGES {
        session.migrate(image)?;
        for tasks in TASKS {
            let first = step(session, image, tasks)?;
            let held = HeldStep::start(
                session.cluster(),
                USER,
                &["--nodelist", NODE, "--overlap", &option(image)],
                1,
                "echo started",
            )?;
            let second = step_beside(session, image, tasks)?;
            held.finish()?;
            wait_for_steps(session.cluster(), NODE)?;
            note.push_str(&format!(
                " {image} ({layers} layers), {tasks}: {} cold, {} warm.",
                first.paths, second.paths
            ));
            cold.push(f64::from(first.paths) - f64::from(layers));
            warm.push(f64::from(second.paths));
            locks.push(f64::from(first.locks + second.locks));
        }
    }
    let figures = vec![
        Figure::new(ROW.id, COLD, most(&cold), "").at_most(4.0),
        Figure::new("store_ops_warm", WARM, most(&warm), "").at_most(3.0),
        Figure::new("store_locks", LOCKS, most(&locks), "").at_most(0.0),
    ];
    Ok(Measured { figures, notes: vec![note] })
}

/// What a step does with the store, from before its start until all of it is gone.
fn step(session: &Session, image: &str, tasks: &str) -> anyhow::Result<StoreCalls> {
    let trace = Trace::start(session.cluster(), NODE)?;
    run(session, image, tasks)?;
    wait_for_steps(session.cluster(), NODE)?;
    trace.finish()
}

/// The same while another step goes on.
fn step_beside(session: &Session, image: &str, tasks: &str) -> anyhow::Result<StoreCalls> {
    let trace = Trace::start(session.cluster(), NODE)?;
    run(session, image, tasks)?;
    trace.finish()
}

fn run(session: &Session, image: &str, tasks: &str) -> anyhow::Result<()> {
    session.cluster().srun(USER, &["--nodelist", NODE, tasks, &option(image), "true"])?.success().map(drop)
}

fn option(image: &str) -> String {
    format!("--parallax-image={image}")
}

/// The greatest value, with how far apart all lie.
fn most(values: &[f64]) -> Summary {
    let most = values.iter().copied().fold(f64::MIN, f64::max);
    Summary { median: most, spread: Summary::of(values.iter().copied()).spread }
}
