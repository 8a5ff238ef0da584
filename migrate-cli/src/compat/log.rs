//! What the Go tool prints while it works: lines of `key=value` on standard output.

use std::time::SystemTime;

use crate::output;

/// How much is printed, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing but what the program dies of.
    Panic,
    /// What ends the program.
    Fatal,
    /// Errors.
    Error,
    /// Warnings.
    Warning,
    /// What is done.
    Info,
    /// Everything.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    /// Reads a level; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
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
pub struct Log {
    /// The last level that is printed.
    pub level: Level,
    /// What the program is doing: `migration` or `rmi`.
    pub part: &'static str,
}

impl Log {
    /// Prints a line.
    pub fn say(self, level: Level, message: &str) {
        if level <= self.level {
            let _ = output::print(&(line(level, message, self.part, &now()) + "\n"));
        }
    }
}

fn now() -> String {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    rfc3339(seconds)
}

fn line(level: Level, message: &str, part: &str, time: &str) -> String {
    format!("time=\"{time}\" level={} msg={message:?} component=cmd sub={part}", level.name())
}

/// A time in seconds since 1970 as a date in UTC (days to dates after the civil calendar of 400-year eras).
fn rfc3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year + era * 400, month + 3) } else { (year + era * 400 + 1, month - 9) };
    format!("{year:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_scripts_know_them() {
        assert_eq!(
            line(Level::Info, "Image already migrated. Nothing to do.", "migration", "2026-01-02T03:04:05Z"),
            "time=\"2026-01-02T03:04:05Z\" level=info msg=\"Image already migrated. Nothing to do.\" component=cmd sub=migration"
        );
    }

    #[test]
    fn dates() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), date);
        }
    }
}
