//! `make soak`: random steps and random faults on both nodes, round after round. After each round both nodes must be clean and
//! idle; at the end the memory and the descriptors of an agent that lived through all of it must be what they were after the
//! first round.
//!
//! A step that no fault came near must end as it should. One that was hit may fail, but the user must be told why, and
//! it must not take longer than [`step::TEST_TIMEOUT`].

#![allow(clippy::indexing_slicing, reason = "a run that indexes past the end fails, as it should")]

mod agent;
mod fault;
mod round;
mod step;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Parser;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use self::agent::Footprint;
use self::round::{Round, Tally};
use integration_tests::clean::assert_clean;
use integration_tests::cluster::Cluster;
use integration_tests::images;

/// Random steps and random faults on a real Slurm cluster, for as long as one likes.
#[derive(Debug, Parser)]
#[command(name = "soak")]
struct Args {
    /// How long, in minutes.
    #[arg(long, env = "SOAK_MINUTES", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// How long a round is, in seconds; after each one the nodes are looked at.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    round: u64,
    /// How many steps run at a time.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=64))]
    steps: u64,
    /// What the random choices begin with. The same seed makes the same choices; what they meet differs.
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs the soak that the command line describes.
#[must_use]
pub fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "a cluster of namespaces needs root: run it as root");
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).context("signals can't be caught")?;
    }
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("{} min, {} steps at a time, --seed={seed}", args.minutes, args.steps);
    images::build(&images::IMAGES)?;
    let cluster = Cluster::up()?;
    for name in images::IMAGES {
        images::migrate(&cluster, name)?;
    }
    let mut random = fastrand::Rng::with_seed(seed);
    let end = Instant::now() + Duration::from_secs(args.minutes * 60);
    let mut total = Tally::default();
    let mut first: Option<Footprint> = None;
    let mut last = None;
    while Instant::now() < end && !interrupted.load(Ordering::SeqCst) && total.problems.is_empty() {
        let until = end.min(Instant::now() + Duration::from_secs(args.round));
        let round = Round { cluster: &cluster, until, interrupted: &interrupted, steps: args.steps };
        let tally = round.run(&mut random)?;
        let footprint = Footprint::of(&cluster, agent::WITNESS)?;
        println!("{tally}; agent of {}: {footprint}", agent::WITNESS);
        total.add(tally);
        first.get_or_insert(footprint);
        last = Some(footprint);
    }
    // An interrupt ends it early; what was begun is undone and looked at all the same.
    let verdict = assert_clean(&cluster);
    println!("{}", total.summary());
    ensure!(total.problems.is_empty(), "--seed={seed}:\n{}", total.problems.join("\n"));
    verdict?;
    if let (Some(first), Some(last)) = (first, last) {
        first.ensure_flat(&last)?;
    }
    ensure!(!interrupted.load(Ordering::SeqCst), "interrupted; all was well until then");
    println!("two clean, idle nodes; the agent's memory and descriptors are flat");
    Ok(())
}
