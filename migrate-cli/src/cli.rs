//! The command line, and what all commands share.
//!
//! Exit codes: 0 if all was done, 1 if something failed, 2 if the command line is wrong, 128 and the signal's number
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

/// Container images for Slurm jobs, from one shared store.
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
    /// The image store [default: the first one in the configuration]
    #[arg(long, global = true, value_name = "DIR", env = "PARALLAX_STORE")]
    store: Option<PathBuf>,
    /// The configuration
    #[arg(long, global = true, value_name = "FILE", default_value = parallax_config::DEFAULT_PATH)]
    pub config: PathBuf,
    /// Say more about what is done; twice for still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Show errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// How messages and progress are written to standard error: text, or json, an object a line
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text", value_enum)]
    pub log_format: LogFormat,
}

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring images into the store
    Migrate(Box<migrate::Options>),
    /// List the images in the store
    #[command(visible_aliases = ["ls", "images"])]
    List(list::Options),
    /// Show what is known of an image
    Inspect(inspect::Options),
    /// Remove images, or names of images
    #[command(visible_alias = "rmi")]
    Rm(rm::Options),
    /// Give an image another name
    Tag(rm::TagOptions),
    /// Check that everything in the store is as it was written
    Verify(verify::Options),
    /// Remove what interrupted migrations and removals left
    Gc(gc::Options),
    /// Show what this node's agent holds and for whom, or have it let go
    Status(status::Options),
    /// Look at what this machine allows: kernel, Podman, users, Slurm, agent, stores; each with its remedy
    Doctor(doctor::Options),
    /// Print what a shell needs to complete this command
    Completions(about::CompletionOptions),
    /// Print the manual page, of a command if one is named
    Man(about::ManOptions),
}

impl Global {
    /// What concerns one store only, with nothing else said.
    pub fn of_store(store: &Path) -> Self {
        Self {
            store: Some(store.to_owned()),
            config: parallax_config::DEFAULT_PATH.into(),
            verbose: 0,
            quiet: false,
            log_format: LogFormat::Text,
        }
    }

    /// The store to work on.
    ///
    /// # Errors
    /// If none was given and the configuration cannot be read or names none.
    pub fn store(&self) -> anyhow::Result<PathBuf> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        let config = Config::load(&self.config).context("no --store was given and there is no usable configuration")?;
        let first = config.stores.into_iter().next();
        first.with_context(|| format!("{} names no store; give one with --store DIR", self.config.display()))
    }

    /// The store to read, if it is one.
    ///
    /// # Errors
    /// If it is not there or no store.
    pub fn existing_store(&self) -> anyhow::Result<PathBuf> {
        let store = self.store()?;
        // Another tool's store has Podman's lists only.
        let parts = [layout::RECORDS, layout::IMAGES_JSON];
        let is_store = |path: &Path| parts.iter().any(|part| path.join(part).exists());
        anyhow::ensure!(
            is_store(&store),
            "{} is no image store; parallax migrate makes one, --store DIR names another",
            store.display()
        );
        Ok(store)
    }
}

/// The description of the command line.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command that was typed.
pub fn run() -> ExitCode {
    let typed: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    if compat::is_meant(&typed) {
        return compat::run(&typed);
    }
    // Wrong usage ends in here, with code 2.
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

/// An error in words, with all its causes. Root is refused in a store by nobody but a file server that does not trust it.
pub fn explained(error: &anyhow::Error) -> String {
    let is_refused = |error: &StoreError| match error {
        StoreError::Io { cause, .. } => cause.raw_os_error() == Some(Errno::ACCESS.raw_os_error()),
        _ => false,
    };
    let is_refused = error.chain().filter_map(|cause| cause.downcast_ref()).any(is_refused);
    let advice = match is_refused && rustix::process::geteuid().is_root() {
        true => "; root has no rights of its own there (root_squash): run this as the store's owner",
        false => "",
    };
    format!("{error:#}{advice}")
}

/// Whether messages are JSON, once the command line has been read.
static JSON: OnceLock<bool> = OnceLock::new();

/// Tells of a failure.
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

/// Writes log events to standard error: those that `PARALLAX_LOG` chooses, else `filter`.
pub fn log_events(filter: &str, json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PARALLAX_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(filter));
    // What cannot be written is not complained of: that would be by eprintln!, which panics.
    let logs =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| output::Stderr).log_internal_errors(false);
    if json {
        logs.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
    } else {
        logs.with_ansi(output::has_colours()).event_format(output::Lines).init();
    }
}
