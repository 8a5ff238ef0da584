//! The command line: which commands there are, and which function runs each.
//!
//! Exit codes: 0 for success, 1 for an error, 2 for an invalid command line, 128 plus the signal's number
//! after an interruption.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::commands::{
    about, chunk, doctor, edf, gc, import, inspect, list, migrate, record_reads, rm, status, trace, verify,
};
use crate::compat;
use crate::global::Global;
use crate::output::{explained, report_error, start_logging};

/// Manage container images for Slurm jobs in a shared store
#[derive(Debug, Parser)]
#[command(name = "parallax", version, max_term_width = 100, disable_help_subcommand = false)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add images to the store
    Migrate(Box<migrate::Options>),
    /// Add images that lie unpacked elsewhere to the store, without a copy
    Import(import::Options),
    /// Cut the layers of images into chunks, for nodes that read them as needed
    Chunk(chunk::Options),
    /// Record which chunks a command reads, for nodes to fetch them first
    Trace(trace::Options),
    /// Serve a SquashFS file and note what is read of it
    #[command(hide = true)]
    RecordReads(record_reads::Options),
    /// List the images in the store
    #[command(visible_aliases = ["ls", "images"])]
    List(list::Options),
    /// Show details of an image
    Inspect(inspect::Options),
    /// Remove images or names of images
    #[command(visible_alias = "rmi")]
    Rm(rm::Options),
    /// Give an image another name
    Tag(rm::TagOptions),
    /// Check the integrity of the store
    Verify(verify::Options),
    /// Remove garbage that interrupted migrations and removals left
    Gc(gc::Options),
    /// Show the leases of this node's agent, or release them
    Status(status::Options),
    /// Check this machine: kernel, Podman, users, Slurm, agent and stores; print a remedy for each problem
    Doctor(doctor::Options),
    /// Check and print environment definition files (EDF)
    Edf(edf::Options),
    /// Print a completion script for a shell
    Completions(about::CompletionOptions),
    /// Print the manual page of parallax or of one of its commands
    Man(about::ManOptions),
}

/// Returns clap's description of the command line.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

/// Parses the command line and runs the command.
pub(crate) fn run() -> ExitCode {
    let typed: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    if compat::is_meant(&typed) {
        return compat::run(&typed);
    }
    // Exits with code 2 on an invalid command line.
    let cli = Cli::parse();
    start_logging(&cli.global);
    let result = match &cli.command {
        Command::Migrate(options) => migrate::run(&cli.global, options),
        Command::Import(options) => import::run(&cli.global, options),
        Command::Chunk(options) => chunk::run(&cli.global, options),
        Command::Trace(options) => trace::run(&cli.global, options),
        Command::RecordReads(options) => record_reads::run(&cli.global, options),
        Command::List(options) => list::run(&cli.global, options),
        Command::Inspect(options) => inspect::run(&cli.global, options),
        Command::Rm(options) => rm::run(&cli.global, options),
        Command::Tag(options) => rm::tag(&cli.global, options),
        Command::Verify(options) => verify::run(&cli.global, options),
        Command::Gc(options) => gc::run(&cli.global, options),
        Command::Status(options) => status::run(&cli.global, options),
        Command::Doctor(options) => doctor::run(&cli.global, options),
        Command::Edf(options) => edf::run(&cli.global, options),
        Command::Completions(options) => about::completions(Cli::command(), options),
        Command::Man(options) => about::man(Cli::command(), options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report_error(&explained(&error));
            ExitCode::FAILURE
        }
    }
}
