//! What a step asks of the shared store on one node: look-ups of paths, and locks, with few images in the store and with thousands.
//! These are counted, so the machine's speed has no part in them.

use crate::report::{Figure, Measured};
use crate::session::{NODE, Session, USER};
use crate::statistics::Summary;
use integration_tests::clean::wait_for_steps;
use integration_tests::held::HeldStep;
use integration_tests::many_images::{self, ManyImages};
use integration_tests::tracing::{STORE, StoreCalls, Trace};

use super::Row;

/// The row.
pub(super) const ROW: Row = Row { id: "store_ops_cold", measure };

const COLD: &str = "path look-ups in the store by a node that has nothing of the image, beyond one for each layer";
const WARM: &str = "path look-ups in the store by a node on which another step has the image";
const LOCKS: &str = "locks taken in the store by any of these steps";

/// The images, with the number of their layers that are distinct.
const IMAGES: [(&str, u32); 2] = [("debian", 1), ("layers40", 40)];
/// How many tasks a step has: their number must not matter.
const TASKS: [&str; 2] = ["--ntasks=1", "--ntasks=8"];

/// How many other images a store has for it to be large: their number must not matter, either.
const MANY: usize = 3000;

fn measure(session: &Session) -> anyhow::Result<Measured> {
    let mut counted = Counted::default();
    for (image, _) in IMAGES {
        session.migrate(image)?;
    }
    count(session, STORE, "few images in the store", &mut counted)?;
    let sources = IMAGES.map(|(image, _)| (image, format!("oci:/images/{image}")));
    let sources: Vec<(&str, &str)> = sources.iter().map(|(image, source)| (*image, source.as_str())).collect();
    let many = ManyImages::install(session.cluster(), NODE, &sources, MANY)?;
    count(session, many_images::STORE, &format!("{MANY} images in the store"), &mut counted)?;
    drop(many);
    let figures = vec![
        Figure::new(ROW.id, COLD, most(&counted.cold), "").at_most(4.0),
        Figure::new("store_ops_warm", WARM, most(&counted.warm), "").at_most(3.0),
        Figure::new("store_locks", LOCKS, most(&counted.locks), "").at_most(0.0),
    ];
    Ok(Measured { figures, notes: vec![format!("store_ops:{}", counted.note)] })
}

/// What was counted: path look-ups beyond one for each layer, path look-ups, locks; and all of it in words.
#[derive(Debug, Default)]
struct Counted {
    cold: Vec<f64>,
    warm: Vec<f64>,
    locks: Vec<f64>,
    note: String,
}

fn count(session: &Session, store: &'static str, which: &str, counted: &mut Counted) -> anyhow::Result<()> {
    // With its first step in a store an agent opens the directory of its holds there, once in its life.
    run(session, IMAGES[0].0, TASKS[0])?;
    wait_for_steps(session.cluster(), NODE)?;
    for (image, layers) in IMAGES {
        for tasks in TASKS {
            let first = step(session, store, image, tasks)?;
            let arguments = ["--nodelist", NODE, "--overlap", &option(image)];
            let held = HeldStep::start(session.cluster(), USER, &arguments, 1, "echo started")?;
            let second = step_beside(session, store, image, tasks)?;
            held.finish()?;
            wait_for_steps(session.cluster(), NODE)?;
            counted.note.push_str(&format!(
                " {which}, {image} ({layers} layers), {tasks}: {} cold, {} warm.",
                first.paths, second.paths
            ));
            counted.cold.push(f64::from(first.paths) - f64::from(layers));
            counted.warm.push(f64::from(second.paths));
            counted.locks.push(f64::from(first.locks + second.locks));
        }
    }
    Ok(())
}

/// What a step does with the store, from before its start until all of it is gone.
fn step(session: &Session, store: &'static str, image: &str, tasks: &str) -> anyhow::Result<StoreCalls> {
    let trace = Trace::start(session.cluster(), NODE, store)?;
    run(session, image, tasks)?;
    wait_for_steps(session.cluster(), NODE)?;
    trace.finish()
}

/// The same while another step goes on.
fn step_beside(session: &Session, store: &'static str, image: &str, tasks: &str) -> anyhow::Result<StoreCalls> {
    let trace = Trace::start(session.cluster(), NODE, store)?;
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
