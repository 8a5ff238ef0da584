//! The log, on standard error: lines for people, or JSON for programs.

use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object on each line, with its fields (`job`, `step`, `uid` and so on) beside `message`, `level` and `timestamp`.
    Json,
}

/// Starts the log.
///
/// # Errors
/// A logger is installed already.
pub fn start(filter: EnvFilter, format: Format) -> Result<(), tracing_subscriber::util::TryInitError> {
    // A line that cannot be written, to a journal that was restarted say, is lost. Complaining of it would be by eprintln!, which
    // panics.
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .log_internal_errors(false);
    match format {
        Format::Text => lines.finish().try_init(),
        Format::Json => lines.json().flatten_event(true).with_span_list(false).finish().try_init(),
    }
}
