//! The command line, and parts shared by all commands.
//!
//! Exit codes: 0 for success, 1 for an error, 2 for an invalid command line, 128 plus the signal's number
//! after an interruption.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use parallax_config::Config;
use parallax_format::layout;
use parallax_store::StoreError;
use rustix::io::Errno;

use crate::commands::{about, doctor, gc, inspect, list, migrate, rm, status, verify};
use crate::{compat, output};

/// Manage container images for Slurm jobs in a shared store
#[derive(Debug, Parser)]
#[command(name = "parallax", version, max_term_width = 100, disable_help_subcommand = false)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Image store [default: the first store in the configuration]
    #[arg(long, global = true, value_name = "DIR", env = "PARALLAX_STORE")]
    store: Option<PathBuf>,
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE", default_value = parallax_config::DEFAULT_PATH)]
    pub config: PathBuf,
    /// Increase verbosity (-v info, -vv debug, -vvv trace)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Show errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Format of messages and progress on standard error; json: one object per line
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text", value_enum)]
    pub log_format: LogFormat,
}

/// Format of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Plain text
    Text,
    /// JSON objects, one per line
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add images to the store
    Migrate(Box<migrate::Options>),
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
    /// Print a completion script for a shell
    Completions(about::CompletionOptions),
    /// Print the manual page of parallax or of one of its commands
    Man(about::ManOptions),
}

impl Global {
    /// Returns the default options with this store.
    pub fn of_store(store: &Path) -> Self {
        Self {
            store: Some(store.to_owned()),
            config: parallax_config::DEFAULT_PATH.into(),
            verbose: 0,
            quiet: false,
            log_format: LogFormat::Text,
        }
    }

    /// Returns the store to work on.
    ///
    /// # Errors
    /// If `--store` was not given and the configuration cannot be read or has no store.
    pub fn store(&self) -> anyhow::Result<PathBuf> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        let config = Config::load(&self.config).context("no --store given and no valid configuration")?;
        let first = config.stores.into_iter().next();
        first.with_context(|| format!("{} has no store; specify one with --store DIR", self.config.display()))
    }

    /// Returns the store to read.
    ///
    /// # Errors
    /// If the directory does not exist or is not a store.
    pub fn existing_store(&self) -> anyhow::Result<PathBuf> {
        let store = self.store()?;
        // Another tool's store has Podman's lists only.
        let parts = [layout::RECORDS, layout::IMAGES_JSON];
        let is_store = |path: &Path| parts.iter().any(|part| path.join(part).exists());
        anyhow::ensure!(
            is_store(&store),
            "{} is not an image store; create it with parallax migrate, or specify another one with --store DIR",
            store.display()
        );
        Ok(store)
    }
}

/// Returns clap's description of the command line.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the command line and runs the command.
pub fn run() -> ExitCode {
    let typed: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    if compat::is_meant(&typed) {
        return compat::run(&typed);
    }
    // Exits with code 2 on an invalid command line.
    let cli = Cli::parse();
    start_logging(&cli.global);
    let result = match &cli.command {
        Command::Migrate(options) => migrate::run(&cli.global, options),
        Command::List(options) => list::run(&cli.global, options),
        Command::Inspect(options) => inspect::run(&cli.global, options),
        Command::Rm(options) => rm::run(&cli.global, options),
        Command::Tag(options) => rm::tag(&cli.global, options),
        Command::Verify(options) => verify::run(&cli.global, options),
        Command::Gc(options) => gc::run(&cli.global, options),
        Command::Status(options) => status::run(&cli.global, options),
        Command::Doctor(options) => doctor::run(&cli.global, options),
        Command::Completions(options) => about::completions(Cli::command(), options),
        Command::Man(options) => about::man(Cli::command(), options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&explained(&error));
            ExitCode::FAILURE
        }
    }
}

/// Returns an error's message with all causes. Only a file server that does not trust root denies root access to a store.
pub fn explained(error: &anyhow::Error) -> String {
    let is_refused = |error: &StoreError| match error {
        StoreError::Io { cause, .. } => cause.raw_os_error() == Some(Errno::ACCESS.raw_os_error()),
        _ => false,
    };
    let is_refused = error.chain().filter_map(|cause| cause.downcast_ref()).any(is_refused);
    let advice = match is_refused && rustix::process::geteuid().is_root() {
        true => {
            "; root has no rights of its own on this file system (root_squash): run the command as the store's owner"
        }
        false => "",
    };
    format!("{error:#}{advice}")
}

/// Whether messages are JSON; set when the command line has been parsed.
static JSON: OnceLock<bool> = OnceLock::new();

/// Reports an error.
pub fn complain(text: &str) {
    if JSON.get() == Some(&true) {
        tracing::error!("{text}");
    } else {
        output::message(&format!("parallax: {text}"));
    }
}

fn start_logging(global: &Global) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "info",
        (_, 2) => "debug",
        _ => "trace",
    };
    let json = global.log_format == LogFormat::Json;
    let _ = JSON.set(json);
    let progress = if json && !global.quiet { format!(",{}=info", crate::progress::TARGET) } else { String::new() };
    log_events(&(level.to_owned() + &progress), json);
}

/// Writes log events to standard error, filtered by `PARALLAX_LOG` if set, else by `filter`.
pub fn log_events(filter: &str, json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PARALLAX_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(filter));
    // Write errors are not reported: tracing would use eprintln!, which panics.
    let logs =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| output::Stderr).log_internal_errors(false);
    if json {
        logs.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
    } else {
        logs.with_ansi(output::has_colours()).event_format(output::Lines).init();
    }
}
