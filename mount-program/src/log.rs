//! The program's log: the configured file, else the journal, else standard error.
//!
//! Podman shows a mount program's standard error only if the mount fails, so errors go there as well. A log that cannot be
//! written is no reason to have no container.
//!
//! The crates for rotated logs (tracing-appender, file-rotate, flexi_logger) are for one process that stays; here each mount is a
//! process, and many append to one file at a time.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use parallax_config::LogLevel;
use rustix::fs::{FlockOperation, OFlags, flock};

/// Socket of systemd's journal for messages in its own format.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Its socket for lines of programs, as `systemd-cat(1)` uses it.
const JOURNAL_STREAMS: &str = "/run/systemd/journal/stdout";
const NAME: &str = "parallax-mount-program";
/// Size in bytes at which a log file is rotated; the previous rotated file is replaced.
const MAX_LOG_BYTES: u64 = 1024 * 1024;

/// The log of this process.
#[derive(Debug)]
pub(crate) struct Log {
    level: LogLevel,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    File(File),
    Journal(UnixDatagram),
    StandardError,
}

impl Log {
    /// Opens the file or finds the journal; prints an error about the file on standard error.
    pub(crate) fn open(level: LogLevel, file: Option<&Path>) -> Self {
        let file = file.and_then(|path| {
            open_bounded(path).inspect_err(|error| complain(&format!("the log {}: {error}", path.display()))).ok()
        });
        let sink = file.map(Sink::File).or_else(|| journal(Path::new(JOURNAL)).ok().map(Sink::Journal));
        Self { level, sink: sink.unwrap_or(Sink::StandardError) }
    }

    /// Returns a descriptor to which a program may write lines of the log: the file, or a stream to the journal.
    pub(crate) fn stream(&self) -> Option<OwnedFd> {
        match &self.sink {
            Sink::File(file) => file.try_clone().ok().map(OwnedFd::from),
            Sink::Journal(_) => journal_stream(Path::new(JOURNAL_STREAMS)).ok().map(OwnedFd::from),
            Sink::StandardError => None,
        }
    }

    /// Logs a message of the level "info".
    pub(crate) fn note(&self, message: &str) {
        self.say(LogLevel::Info, message);
    }

    /// Logs a message.
    pub(crate) fn say(&self, level: LogLevel, message: &str) {
        if level > self.level {
            return;
        }
        let message = message.replace('\n', " ");
        let done = match &self.sink {
            Sink::File(file) => line(file, level, &message),
            Sink::Journal(socket) => socket.send(&entry(level, &message)).map(drop),
            Sink::StandardError => {
                complain(&message);
                return;
            }
        };
        if done.is_err() || level == LogLevel::Error {
            complain(&message);
        }
    }
}

/// Writes a line to standard error. `eprintln!` would panic on a closed pipe.
pub(crate) fn complain(message: &str) {
    let _ = io::stderr().write_all(format!("{NAME}: {message}\n").as_bytes());
}

/// Opens a log, a new one if the old one has reached [`MAX_LOG_BYTES`]. A process writes a few lines only, so this bounds the size.
fn open_bounded(path: &Path) -> io::Result<File> {
    let file = open(path)?;
    if file.metadata()?.len() < MAX_LOG_BYTES {
        return Ok(file);
    }
    put_aside(&file, path)?;
    open(path)
}

/// Renames a full log to `<name>.1`, once for all processes that have it open: the process that has its lock, and finds the log still
/// under its name. A log that cannot be renamed is truncated.
fn put_aside(full: &File, path: &Path) -> io::Result<()> {
    // Another process that has the lock is doing it.
    if flock(full, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(());
    }
    let (ours, named) = (full.metadata()?, fs::symlink_metadata(path)?);
    if (ours.dev(), ours.ino()) != (named.dev(), named.ino()) {
        return Ok(());
    }
    fs::rename(path, previous(path)).or_else(|_| full.set_len(0))
}

/// Returns the name of the rotated log.
fn previous(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".1");
    name.into()
}

/// Opens a log of the user for appending. A world-writable directory may contain another user's file, link
/// or FIFO of that name, which is refused.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    // Of others only root's is trusted; in Podman's namespace all who have no number there look the same.
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it belongs to somebody else"));
    }
    Ok(file)
}

fn journal(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Opens a stream of lines; the first ones describe it: the identifier, no unit, the priority (warning), and that lines have no priority of their
/// own and go nowhere else.
fn journal_stream(path: &Path) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(path)?;
    stream.write_all(format!("{NAME}\n\n4\n0\n0\n0\n0\n").as_bytes())?;
    Ok(stream)
}

fn line(mut file: &File, level: LogLevel, message: &str) -> io::Result<()> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let process = std::process::id();
    // One write, so that lines of several processes do not mix.
    file.write_all(
        format!("{}.{:03} {process} {level:?}: {message}\n", since.as_secs(), since.subsec_millis()).as_bytes(),
    )
}

/// Returns a message in the journal's format: one field per line.
fn entry(level: LogLevel, message: &str) -> Vec<u8> {
    let priority = match level {
        LogLevel::Error => 3,
        LogLevel::Warning => 4,
        LogLevel::Info => 6,
        LogLevel::Debug => 7,
    };
    format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER={NAME}\nMESSAGE={message}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_journal_gets_a_field_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let end = UnixDatagram::bind(&path).unwrap();
        let log = Log { level: LogLevel::Info, sink: Sink::Journal(journal(&path).unwrap()) };
        log.say(LogLevel::Debug, "not this");
        log.say(LogLevel::Info, "two\nlines");
        let mut buffer = [0; 256];
        let length = end.recv(&mut buffer).unwrap();
        let expected = b"PRIORITY=6\nSYSLOG_IDENTIFIER=parallax-mount-program\nMESSAGE=two lines\n";
        assert_eq!(&buffer[..length], expected);
    }

    #[test]
    fn a_programs_lines_get_to_the_journal() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stdout");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        journal_stream(&path).unwrap().write_all(b"line\n").unwrap();
        let mut text = String::new();
        io::Read::read_to_string(&mut listener.accept().unwrap().0, &mut text).unwrap();
        // As systemd-cat(1) begins.
        assert_eq!(text, "parallax-mount-program\n\n4\n0\n0\n0\n0\nline\n");
    }

    #[test]
    fn a_file_gets_whole_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        for message in ["one", "two"] {
            Log::open(LogLevel::Info, Some(&path)).say(LogLevel::Info, message);
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() == 2 && text.ends_with("Info: two\n"), "{text}");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_full_file_is_put_aside_once_and_the_one_before_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let size = |path: &Path| fs::metadata(path).unwrap().len();
        for round in 0..3 {
            let full = open(&path).unwrap();
            full.set_len(MAX_LOG_BYTES + round).unwrap();
            // As one process after another finds it full.
            let (first, second) = (open(&path).unwrap(), open(&path).unwrap());
            put_aside(&first, &path).unwrap();
            Log::open(LogLevel::Info, Some(&path)).say(LogLevel::Info, "after");
            drop(first);
            put_aside(&second, &path).unwrap();
            assert!(fs::read_to_string(&path).unwrap().ends_with("after\n"));
            assert_eq!(size(&previous(&path)), MAX_LOG_BYTES + round);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_full_file_that_cannot_be_renamed_is_emptied() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        // A directory cannot be replaced by a file.
        fs::create_dir(previous(&path)).unwrap();
        open(&path).unwrap().set_len(MAX_LOG_BYTES).unwrap();
        Log::open(LogLevel::Info, Some(&path)).say(LogLevel::Info, "after");
        assert!(fs::read_to_string(&path).unwrap().lines().count() == 1);
    }

    #[test]
    fn links_and_what_is_no_file_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        symlink("elsewhere", &link).unwrap();
        assert!(open(&link).is_err());
        assert!(open(directory.path()).is_err());
        assert!(!directory.path().join("elsewhere").exists());
    }
}
