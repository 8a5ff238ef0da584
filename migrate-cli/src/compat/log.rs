//! Log output of the Go tool: lines of `key=value` on standard output.

use jiff::Timestamp;

use crate::output;

/// Log level, the quietest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Only panics.
    Panic,
    /// Errors that end the program.
    Fatal,
    /// Errors.
    Error,
    /// Warnings.
    Warning,
    /// Actions.
    Info,
    /// Everything.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    /// Parses a level; `None` if it is invalid.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "panic" => Self::Panic,
            "fatal" => Self::Fatal,
            "error" => Self::Error,
            "warn" | "warning" => Self::Warning,
            "info" => Self::Info,
            "debug" => Self::Debug,
            "trace" => Self::Trace,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Fatal => "fatal",
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Prints lines up to a level.
#[derive(Debug, Clone, Copy)]
pub(super) struct Log {
    /// The last level that is printed.
    pub level: Level,
    /// The operation: `migration` or `rmi`.
    pub part: &'static str,
}

impl Log {
    /// Prints a line.
    pub(super) fn print(self, level: Level, message: &str) {
        if level <= self.level {
            let _ = output::print(&(line(level, message, self.part, Timestamp::now()) + "\n"));
        }
    }
}

/// A line with the time in UTC, to the second.
fn line(level: Level, message: &str, part: &str, time: Timestamp) -> String {
    let time = Timestamp::from_second(time.as_second()).unwrap_or(time);
    format!("time=\"{time}\" level={} msg={message:?} component=cmd sub={part}", level.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_scripts_know_them() {
        let time = "2026-01-02T03:04:05.9Z".parse().unwrap();
        assert_eq!(
            line(Level::Info, "Image already migrated. Nothing to do.", "migration", time),
            "time=\"2026-01-02T03:04:05Z\" level=info msg=\"Image already migrated. Nothing to do.\" component=cmd sub=migration"
        );
    }
}
