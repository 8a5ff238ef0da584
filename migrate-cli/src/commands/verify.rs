//! `parallax verify`.

use anyhow::ensure;
use parallax_store::{Problem, Store, Verifier};
use serde::Serialize;

use super::find::find;
use super::{print, print_json};
use crate::cli::Global;
use crate::units;

/// What `parallax verify` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The images: names, digests or ids [default: all, and the index]
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Print a JSON array instead, one object for a problem
    #[arg(long)]
    json: bool,
}

/// One problem in the JSON form. Fields are only ever added.
#[derive(Debug, Serialize)]
struct Row<'a> {
    /// The id of the image that has it; null for one of the index.
    image: Option<&'a str>,
    /// The file, relative to the store.
    path: &'a str,
    /// What is wrong with it.
    problem: &'a str,
    /// What to do.
    remedy: &'a str,
}

/// Runs the command.
///
/// # Errors
/// If there is a problem, or the store cannot be read.
pub fn run(global: &Global, options: &Options) -> anyhow::Result<()> {
    let store = Store::open(&global.existing_store()?)?;
    let mut verifier = Verifier::new(&store)?;
    let mut foreign = 0;
    let ids: Vec<String> = if options.images.is_empty() {
        verifier.index()?;
        foreign = verifier.foreign()?;
        store.ids_with("")?
    } else {
        options.images.iter().map(|image| find(&store, image).map(|found| found.id)).collect::<anyhow::Result<_>>()?
    };
    for id in &ids {
        verifier.image(id)?;
    }
    let problems = verifier.finish();
    if options.json {
        print_json(&problems.iter().map(row).collect::<Vec<_>>())?;
    } else {
        print(&problems.iter().map(line).collect::<String>())?;
    }
    let images = units::count(ids.len() + foreign, "image");
    ensure!(problems.is_empty(), "{} found in {images}", units::count(problems.len(), "problem"));
    if !options.json && !global.quiet {
        print(&format!("{images} verified, no problem found\n"))?;
    }
    Ok(())
}

fn row(problem: &Problem) -> Row<'_> {
    Row { image: problem.image.as_deref(), path: &problem.path, problem: &problem.what, remedy: problem.remedy }
}

fn line(problem: &Problem) -> String {
    let Problem { image, path, what, remedy } = problem;
    let image = image.as_deref().map_or(String::new(), |id| format!("{}: ", id.get(..12).unwrap_or(id)));
    format!("{image}{path} {what}; {remedy}\n")
}
