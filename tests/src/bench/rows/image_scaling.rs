//! What 10,000 images in a store cost whoever wants one of them.

use std::fs;
use std::path::PathBuf;

use super::Row;
use crate::bench::report::{Figure, Measured};
use crate::bench::sampler::Candidate;
use crate::bench::session::{NODE, Session};
use crate::bench::statistics::Summary;
use crate::synthetic;

/// The row.
pub const ROW: Row = Row { id: "image_scaling", measure };

const FEW: usize = 10;
const MANY: usize = 10_000;

/// What is done, with its figure's name and the command line; STORE is put in. A migration and a removal rewrite Podman's
/// lists, which have an entry for each image.
const WORK: [(&str, &str, &str, &str); 4] = [
    (
        "image_scaling",
        "look one image up (`parallax inspect`), in a store of 10,000 images / of 10",
        "inspect many:7",
        "",
    ),
    (
        "image_scaling_migrate",
        "bring an image of one small layer, the same",
        "migrate oci:/images/static --name extra",
        "rm --force extra",
    ),
    ("image_scaling_rm", "remove it again, the same", "rm --force extra", "migrate oci:/images/static --name extra"),
    ("image_scaling_list", "list all, for each image, the same", "list", ""),
];

fn measure(session: &Session) -> anyhow::Result<Measured> {
    let stores = [Many::new(session, "few", FEW)?, Many::new(session, "many", MANY)?];
    let mut measured = Measured::default();
    for (id, what, line, before) in WORK {
        let candidate = |store: &Many| {
            let command = format!("parallax --quiet --store {}", store.path);
            let candidate = Candidate::new(&format!("{command} {line}"));
            if before.is_empty() { candidate } else { candidate.after(&format!("{command} {before}")) }
        };
        let samples = session.sample_in_allocation_of_root(stores.iter().map(candidate).collect(), 15)?;
        let times = samples.milliseconds::<2>()?;
        let [few, many] = [0, 1].map(|side| Summary::of(times.iter().map(|round| round[side])).median);
        let images = if id.ends_with("list") { (FEW as f64, MANY as f64) } else { (1.0, 1.0) };
        let ratio = Summary::of(times.iter().map(|[few, many]| (many / images.1) / (few / images.0)));
        let figure = Figure::new(id, what, ratio, "");
        measured.figures.push(if line == "inspect many:7" { figure.at_most(1.2) } else { figure });
        measured.notes.push(format!("{id}: {many:.1} ms with 10,000 images, {few:.1} ms with 10."));
    }
    Ok(measured)
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
