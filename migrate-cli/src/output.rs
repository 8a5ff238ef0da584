//! Standard output and standard error of the command.
//!
//! A reader that ends early, as in `parallax list | head`, is not an error: `println!` would panic. Messages and progress
//! bars share standard error; a message is written above the bars.

use std::fmt;
use std::io::{self, IsTerminal as _, Write};
use std::sync::OnceLock;

use anyhow::Context as _;
use indicatif::MultiProgress;
use parallax_store::StoreError;
use rustix::io::Errno;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::global::{Global, LogFormat};

/// Target of the log events that report progress.
pub(crate) const PROGRESS: &str = "progress";

/// Progress bars of this process, once there are any.
static BARS: OnceLock<MultiProgress> = OnceLock::new();
/// `true` if messages are JSON; set when the command line has been parsed.
static JSON: OnceLock<bool> = OnceLock::new();

/// Prints text to standard output.
///
/// # Errors
/// The text cannot be written, and not because its reader has ended.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    print_bytes(text.as_bytes())
}

/// Prints bytes to standard output.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("the result cannot be printed"),
        _ => Ok(()),
    }
}

/// Prints a value as JSON to standard output.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Writes a line to standard error. Write errors are ignored, since they cannot be reported.
pub(crate) fn message(text: &str) {
    let _ = writeln!(Stderr, "{}", printable(text));
}

/// Escapes control characters except line breaks and tabs: errors contain text from registries and archives, which must not
/// control the terminal.
pub(crate) fn printable(text: &str) -> String {
    let escaped = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    text.chars().flat_map(|c| if escaped(c) { c.escape_default().collect() } else { vec![c] }).collect()
}

/// Returns `true` if standard error is a terminal that can redraw progress bars.
pub(crate) fn draws_bars() -> bool {
    io::stderr().is_terminal() && !is_dumb(std::env::var("TERM").ok().as_deref())
}

/// Returns `true` if standard error is a terminal with colours and `NO_COLOR` is not set (<https://no-color.org>).
pub(crate) fn has_colours() -> bool {
    draws_bars() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Returns `true` if the terminal has no control sequences according to `TERM`.
fn is_dumb(term: Option<&str>) -> bool {
    term == Some("dumb")
}

/// Returns the progress bars, above which messages are written.
pub(crate) fn bars() -> MultiProgress {
    BARS.get_or_init(MultiProgress::new).clone()
}

/// Standard error, above progress bars if there are any.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match BARS.get() {
            Some(bars) => bars.suspend(|| io::stderr().write_all(bytes)),
            None => io::stderr().write_all(bytes),
        }
    }

    fn write_fmt(&mut self, arguments: fmt::Arguments<'_>) -> io::Result<()> {
        // One write, so that lines of several threads do not mix.
        self.write_all(arguments.to_string().as_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The text form of log events: `parallax: warning: MESSAGE`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let (word, colour) = match *event.metadata().level() {
            Level::ERROR => ("error", 31),
            Level::WARN => ("warning", 33),
            Level::INFO => ("info", 32),
            Level::DEBUG => ("debug", 34),
            Level::TRACE => ("trace", 35),
        };
        if writer.has_ansi_escapes() {
            write!(writer, "parallax: \x1b[{colour}m{word}:\x1b[0m ")?;
        } else {
            write!(writer, "parallax: {word}: ")?;
        }
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Returns an error's message with all causes. Only a file server that does not trust root denies root access to a store.
pub(crate) fn explained(error: &anyhow::Error) -> String {
    let is_refused = |error: &StoreError| match error {
        StoreError::Io { cause, .. } => cause.raw_os_error() == Some(Errno::ACCESS.raw_os_error()),
        _ => false,
    };
    let is_refused = error.chain().filter_map(|cause| cause.downcast_ref()).any(is_refused);
    let advice = if is_refused && rustix::process::geteuid().is_root() {
        "; root has no rights of its own on this file system (root_squash): run the command as the store's owner"
    } else {
        ""
    };
    format!("{error:#}{advice}")
}

/// Reports an error.
pub(crate) fn report_error(text: &str) {
    if JSON.get() == Some(&true) {
        tracing::error!("{text}");
    } else {
        message(&format!("parallax: {text}"));
    }
}

/// Starts logging as the options of the command line say.
pub(crate) fn start_logging(global: &Global) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "info",
        (_, 2) => "debug",
        _ => "trace",
    };
    let json = global.log_format == LogFormat::Json;
    let _ = JSON.set(json);
    let progress = if json && !global.quiet { format!(",{PROGRESS}=info") } else { String::new() };
    log_events(&(level.to_owned() + &progress), json);
}

/// Writes log events to standard error, filtered by `PARALLAX_LOG` if set, else by `filter`.
pub(crate) fn log_events(filter: &str, json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PARALLAX_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(filter));
    // Write errors are not reported: tracing would use eprintln!, which panics.
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Stderr).log_internal_errors(false);
    if json {
        logs.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
    } else {
        logs.with_ansi(has_colours()).event_format(Lines).init();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Returns a warning, with or without colours.
    fn line(colours: bool) -> String {
        #[derive(Clone)]
        struct Memory(Arc<Mutex<Vec<u8>>>);
        impl Write for Memory {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let memory = Memory(Arc::default());
        let written = memory.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(colours)
            .event_format(Lines)
            .with_writer(move || memory.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || tracing::warn!(layer = "ab", "a\x1b[31mb"));
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_pipe_gets_neither_colours_nor_module_paths() {
        assert_eq!(line(false), "parallax: warning: a\\x1b[31mb layer=\"ab\"\n");
        assert!(line(true).starts_with("parallax: \x1b[33mwarning:\x1b[0m "), "{:?}", line(true));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b]0;b\x07\nc\té"), "a\\u{1b}]0;b\\u{7}\nc\té");
    }

    #[test]
    fn a_dumb_terminal_gets_no_control_sequences() {
        assert!(is_dumb(Some("dumb")));
        assert!(!is_dumb(Some("xterm")) && !is_dumb(None));
    }
}
