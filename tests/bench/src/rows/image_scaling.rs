//! What 10,000 images in a store cost whoever wants one of them.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;

use super::Row;
use crate::report::{Figure, Measured};
use crate::sampler::Candidate;
use crate::session::{NODE, Session};
use crate::statistics::Summary;
use integration_tests::synthetic;

/// The row.
pub(super) const ROW: Row = Row { id: "image_scaling", measure };

const FEW: usize = 10;
const MANY: usize = 10_000;
const CONFIG: &str = "/etc/parallax/parallax.toml";

/// Something that is done with both stores.
struct Work {
    id: &'static str,
    what: &'static str,
    /// What `parallax` is told.
    line: &'static str,
    /// What comes before it.
    before: &'static str,
    /// What reads, and writes, the answer that a store of many images has, with nothing else: a shell's command line in the
    /// store. It is counted on the side of the few.
    answer: &'static str,
    /// What the ratio may be at most, if something is promised.
    target: Option<f64>,
}

/// Podman's lists have an entry for each image and layer, and are replaced as a whole.
const LISTS: &str = "for list in overlay-layers/layers overlay-images/images; do \
                     dd if=$list.json of=parallax/tmp/list bs=1M conv=fsync status=none; done; rm parallax/tmp/list";
const RECORDS: &str = "find parallax/images parallax/names parallax/holds overlay-images/images.json -type f -exec cat {} + \
                       -o -type l -printf %l >/dev/null";

const WORK: [Work; 4] = [
    Work {
        id: "image_scaling",
        what: "look one image up (`parallax inspect`), in a store of 10,000 images / of 10",
        line: "inspect many:7",
        before: "",
        answer: "",
        target: Some(1.2),
    },
    Work {
        id: "image_scaling_list",
        what: "list all, in a store of 10,000 images / (of 10 + `find -exec cat` of the 10,000 records)",
        line: "list",
        before: "",
        answer: RECORDS,
        target: Some(1.2),
    },
    Work {
        id: "image_scaling_migrate",
        what: "bring an image of one small layer, in a store of 10,000 images / (of 10 + `dd` of Podman's lists of 10,000)",
        line: "migrate oci:/images/static --name extra",
        before: "rm --force extra",
        answer: LISTS,
        target: Some(1.2),
    },
    Work {
        id: "image_scaling_rm",
        what: "remove it again, the same",
        line: "rm --force extra",
        before: "migrate oci:/images/static --name extra",
        answer: LISTS,
        // Which layers others use is said by all of them.
        target: None,
    },
];

const STEP: &str = "start a step (`srun --parallax-image=IMG true`) from a store of 10,000 images / of 10";

fn measure(session: &Session) -> anyhow::Result<Measured> {
    let stores = [Many::new(session, "few", FEW)?, Many::new(session, "many", MANY)?];
    let mut measured = Measured::default();
    for work in &WORK {
        measure_work(session, work, &stores, &mut measured)?;
    }
    step_start(session, &stores, &mut measured)?;
    Ok(measured)
}

fn measure_work(session: &Session, work: &Work, stores: &[Many; 2], measured: &mut Measured) -> anyhow::Result<()> {
    let Work { id, what, line, before, answer, target } = *work;
    let candidate = |store: &Many| {
        let command = format!("parallax --quiet --store {}", store.path);
        let candidate = Candidate::new(&format!("{command} {line}"));
        if before.is_empty() { candidate } else { candidate.after(&format!("{command} {before}")) }
    };
    let mut candidates: Vec<Candidate> = stores.iter().map(candidate).collect();
    let script = if answer.is_empty() { ":".to_owned() } else { format!("cd {}; {answer}", stores[1].path) };
    candidates.push(Candidate { command: ["sh", "-euc", &script].map(ToOwned::to_owned).into(), ..Candidate::new("") });
    let times = session.sample_in_allocation_of_root(candidates, 15)?.milliseconds::<3>()?;

    let bare = |answered: f64| if answer.is_empty() { 0.0 } else { answered };
    let ratio = times.iter().map(|[few, many, answered]| many / (few + bare(*answered)));
    let figure = Figure::new(id, what, Summary::of(ratio), "");
    measured.figures.push(match target {
        Some(target) => figure.at_most(target),
        None => figure,
    });
    let [few, many, answered] = [0, 1, 2].map(|side| Summary::of(times.iter().map(|round| round[side])).median);
    let mut note = format!("{id}: {many:.1} ms with 10,000 images, {few:.1} ms with 10");
    if !answer.is_empty() {
        note.push_str(&format!(", {answered:.1} ms for the answer alone"));
    }
    measured.notes.push(note + ".");
    Ok(())
}

/// The stores are configured one after the other, and an image is taken of each that the first one has not.
fn step_start(session: &Session, stores: &[Many; 2], measured: &mut Measured) -> anyhow::Result<()> {
    let [few, many] = stores;
    let _configured = Configured::new(session, &format!("stores = [{:?}, {:?}]\n", few.path, many.path))?;
    let start =
        |number: usize| Candidate::new(&format!("srun --overlap --ntasks=1 --parallax-image=many:{number} true"));
    let samples = session.sample_in_allocation(vec![start(FEW - 1), start(MANY - 1)], 40)?;
    let times = samples.milliseconds::<2>()?;
    let ratio = times.iter().map(|[few, many]| many / few);
    measured.figures.push(Figure::new("image_scaling_step", STEP, Summary::of(ratio), "").at_most(1.1));
    let [few, many] = [0, 1].map(|side| Summary::of(times.iter().map(|round| round[side])).median);
    measured.notes.push(format!("image_scaling_step: {many:.1} ms with 10,000 images, {few:.1} ms with 10."));
    Ok(())
}

/// Another configuration of the node, until this is dropped.
struct Configured<'a> {
    session: &'a Session,
    file: PathBuf,
    before: Vec<u8>,
}

impl<'a> Configured<'a> {
    fn new(session: &'a Session, text: &str) -> anyhow::Result<Self> {
        let file = session.cluster().path_on(NODE, CONFIG)?;
        let before = fs::read(&file).with_context(|| format!("{}", file.display()))?;
        fs::write(&file, text)?;
        let configured = Self { session, file, before };
        configured.restart()?;
        Ok(configured)
    }

    fn restart(&self) -> anyhow::Result<()> {
        let service = |order| self.session.cluster().service(NODE, order, "agent");
        service("stop").and_then(|()| service("start"))
    }
}

impl Drop for Configured<'_> {
    fn drop(&mut self) {
        let written = fs::write(&self.file, &self.before).map_err(anyhow::Error::from);
        if let Err(error) = written.and_then(|()| self.restart()) {
            eprintln!("bench: {CONFIG} of {NODE} is not as it was: {error:#}");
        }
    }
}

/// A store of many images, on the file system that all nodes share.
struct Many {
    path: String,
    /// The same as this machine sees it.
    root: PathBuf,
}

impl Many {
    fn new(session: &Session, name: &str, count: usize) -> anyhow::Result<Self> {
        let root = session.cluster().shared().join(format!("scaling-{name}"));
        let store = Self { path: format!("/shared/scaling-{name}"), root };
        session.migrate("static")?;
        let base = format!("parallax --store {} migrate oci:/images/debian --name base", store.path);
        session.cluster().shell(NODE, &base)?;
        synthetic::add_images(&store.root, "base", count)?;
        synthetic::check(&store.root, count)?;
        Ok(store)
    }
}

impl Drop for Many {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.root) {
            eprintln!("bench: {} can't be removed: {error}", self.root.display());
        }
    }
}
