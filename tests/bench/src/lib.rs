//! `make bench`: measures Parallax side by side with what it is to be compared with, in one run.
//!
//! Each row of the table is one module below `rows`. It measures with a [`session::Session`], which has the commands it
//! is given run by turns on a node, and makes figures of the samples.

#![allow(clippy::indexing_slicing, reason = "a measurement that indexes past the end fails, as it should")]

mod bare_container;
mod big_image;
mod interrupt;
mod layer_mount;
mod lazy_workers;
mod leases;
mod limit;
mod local_podman;
mod memory;
mod metadata_mounts;
mod overlays;
mod registry;
mod report;
mod rows;
mod sampler;
mod session;
mod slow_file;
mod slow_server;
mod statistics;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use integration_tests::cluster::repository;
use report::Measured;
use rows::{ROWS, Row};
use session::Session;

/// Measures Parallax on the test cluster, prints a table and writes target/bench/results.json.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    /// Take a few samples only, to see whether everything works; the figures are worth nothing
    #[arg(long)]
    quick: bool,
    /// Measure only these rows
    #[arg(long, value_name = "ID", value_delimiter = ',', value_parser = row)]
    rows: Option<Vec<&'static Row>>,
    /// Compare with another mount program too
    #[arg(long, value_name = "PATH")]
    peer_mount_program: Option<PathBuf>,
    #[command(subcommand)]
    order: Option<Order>,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// What the benchmark runs on a node
    #[command(hide = true)]
    OnNode {
        /// The order and what it is about
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        order: Vec<String>,
    },
}

/// The whole program. A missed target is no failure: the table says so.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.order {
        Some(Order::OnNode { order }) => sampler::run(&order),
        None => {
            let rows = arguments.rows.unwrap_or_else(|| ROWS.iter().collect());
            measure(arguments.quick, arguments.peer_mount_program.as_deref(), &rows)
        }
    };
    match (done, interrupt::signal()) {
        (Ok(()), _) => ExitCode::SUCCESS,
        (Err(error), signal) => {
            eprintln!("bench: {error:#}");
            ExitCode::from(signal.map_or(1, |signal| 128 + signal))
        }
    }
}

fn measure(quick: bool, peer: Option<&Path>, rows: &[&Row]) -> anyhow::Result<()> {
    interrupt::watch()?;
    eprintln!("bench: bringing the cluster up");
    let session = Session::start(quick, peer)?;
    let mut measured: Vec<Measured> = Vec::new();
    for row in rows {
        eprintln!("bench: measuring {}", row.id);
        measured.push((row.measure)(&session).with_context(|| row.id)?);
    }
    drop(session);
    interrupt::check()?;

    print!("{}", report::markdown(&measured));
    if quick {
        println!("\nA quick run: too few samples for these figures to mean anything.");
    }
    let file = repository().join("target/bench/results.json");
    fs::create_dir_all(file.with_file_name(""))?;
    fs::write(&file, report::json(&measured)?).with_context(|| format!("{}", file.display()))
}

/// The row with this id.
fn row(id: &str) -> Result<&'static Row, String> {
    let known = || ROWS.iter().map(|row| row.id).collect::<Vec<_>>().join(", ");
    ROWS.iter().find(|row| row.id == id).ok_or_else(|| format!("there is no such row; there are {}", known()))
}
