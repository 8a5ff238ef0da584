//! The process that makes the step's container, and the process that keeps it until the step ends.
//!
//! The task forks a child that makes the container ([`crate::build`]); as its last act this child forks the holder, reports its
//! number and ends. So the task has no child of which its command knows nothing, and the holder has none of the task's descriptors.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use parallax_format::oci::Execution;
use parallax_sys::process::{Process, close_all_descriptors, in_child};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, set_parent_process_death_signal, setsid, waitpid};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_name};
use serde::{Deserialize, Serialize};

use crate::door::BOUNDS;
use crate::join::limit_capabilities;

/// How long to wait for the end of a child that was killed. One that waits for a file system may not end.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);
/// The holder's name in process lists.
const NAME: &std::ffi::CStr = c"parallax-hold";

/// A line of the child's report.
#[derive(Debug, Serialize, Deserialize)]
enum Line {
    /// What the child is about to do, a part of a sentence.
    At(String),
    /// The container is ready.
    Ready(Held),
    /// What failed, and why.
    Failed(String),
}

/// A container that is kept.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Held {
    /// The holder's number; none for a container that is kept without a process.
    pub pid: Option<i32>,
    /// The variables that the image and the devices of the container give tasks, names and values.
    pub environment: Vec<(String, String)>,
    /// The settings of an image that is a directory.
    #[serde(default)]
    pub execution: Option<Execution>,
}

/// The child's end of the report.
#[derive(Debug)]
pub(crate) struct Report(File);

impl Report {
    /// Says what this process is about to do, for the message about a timeout.
    pub(crate) fn at(&mut self, what: &str) {
        self.say(&Line::At(what.to_owned()));
    }

    fn say(&mut self, line: &Line) {
        // A task that does not read any more has ended, and this process ends with it.
        let _ = serde_json::to_vec(line).map(|mut bytes| {
            bytes.push(b'\n');
            self.0.write_all(&bytes)
        });
    }
}

/// Runs `make` in a child process, which must end in the container, and leaves a process there if the container is to be held by one.
/// `make` returns [`Held`] without the process.
///
/// # Errors
/// A message for the user; also after the deadline.
pub(crate) fn start(
    deadline: Instant,
    is_held: bool,
    make: impl FnOnce(&mut Report) -> Result<Held, String>,
) -> Result<Held, String> {
    let system = |error: io::Error| format!("cannot start a process: {error}");
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| system(error.into()))?;
    let child = in_child(|| {
        let mut report = Report(File::from(writer));
        let last = match make_and_hold(&mut report, is_held, make) {
            Ok(held) => Line::Ready(held),
            Err(message) => Line::Failed(message),
        };
        report.say(&last);
        0
    })
    .map_err(system)?;
    let (said, is_complete) = read_until(&reader, deadline).map_err(system)?;
    let mut lines = lines(&said);
    if !is_complete {
        end(&child);
        let at = match lines.pop() {
            Some(Line::At(what)) => format!(" at this: {what}"),
            _ => String::new(),
        };
        return Err(format!("it took too long{at}; tell the administrator"));
    }
    let status = waitpid(Pid::from_raw(child.pid()), WaitOptions::empty()).map_err(|error| system(error.into()))?;
    match lines.pop() {
        Some(Line::Ready(held)) => Ok(held),
        Some(Line::Failed(message)) => Err(message),
        Some(Line::At(what)) => Err(format!("the process that made it ended ({}) at this: {what}", describe(status))),
        None => Err(format!("the process that made it ended ({})", describe(status))),
    }
}

fn describe(status: Option<(Pid, WaitStatus)>) -> String {
    let Some((_, status)) = status else { return "unknown".to_owned() };
    match (status.terminating_signal(), status.exit_status()) {
        (Some(signal), _) => format!("signal: {signal}"),
        (None, code) => format!("exit code: {}", code.unwrap_or_default()),
    }
}

fn make_and_hold(
    report: &mut Report,
    is_held: bool,
    make: impl FnOnce(&mut Report) -> Result<Held, String>,
) -> Result<Held, String> {
    let failed = |error: io::Error| format!("cannot start the process that holds it: {error}");
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| failed(error.into()))?;
    let made = make(report)?;
    if !is_held {
        return Ok(made);
    }
    give_up_privileges().map_err(failed)?;
    let holder = in_child(|| hold().map_or(1, |never| match never {})).map_err(failed)?;
    Ok(Held { pid: Some(holder.pid()), ..made })
}

/// Gives up all capabilities. Tasks take over the bounding set, so it is final before they are told of the holder.
fn give_up_privileges() -> io::Result<()> {
    limit_capabilities(BOUNDS)?;
    let none = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}

/// A value that does not exist.
enum Never {}

/// Keeps the namespaces of this process until it is killed, without any descriptor. Signals that are sent to all processes
/// of the step do not end it.
fn hold() -> io::Result<Never> {
    SigSet::all().thread_block()?;
    setsid()?;
    set_name(NAME)?;
    // Last: the end of the report, which this process has open, tells the task that the holder is complete.
    close_all_descriptors(File::options().read(true).write(true).open("/dev/null")?.into())?;
    loop {
        std::thread::park();
    }
}

/// Ends a child that takes too long.
fn end(child: &Process) {
    let _ = child.kill();
    let _ = child.wait_until_ended(KILL_TIMEOUT);
    let _ = waitpid(Pid::from_raw(child.pid()), WaitOptions::NOHANG);
}

fn lines(said: &[u8]) -> Vec<Line> {
    said.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

/// Reads to the end or until the deadline; returns the bytes, and `true` at the end.
pub(crate) fn read_until(reader: &OwnedFd, deadline: Instant) -> io::Result<(Vec<u8>, bool)> {
    let mut said = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        match poll(&mut [PollFd::new(reader, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok((said, false)),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let mut buffer = [0; 4096];
        match rustix::io::read(reader, &mut buffer) {
            Ok(0) => return Ok((said, true)),
            Ok(length) => said.extend_from_slice(buffer.get(..length).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(said: &str) -> usize {
        lines(said.as_bytes()).len()
    }

    #[test]
    fn a_report_is_read_line_by_line() {
        assert_eq!(lines_of("{\"At\":\"x\"}\n{\"Ready\":{\"pid\":7,\"environment\":[]}}\n"), 2);
        assert_eq!(lines_of("{\"At\":\"x\"}\n{\"Rea"), 1);
        assert_eq!(lines_of(""), 0);
    }

    #[test]
    fn reading_ends_with_the_deadline() {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        rustix::io::write(&writer, b"x").unwrap();
        let until = Instant::now() + Duration::from_millis(20);
        assert_eq!(read_until(&reader, until).unwrap(), (b"x".to_vec(), false));
        drop(writer);
        assert_eq!(read_until(&reader, Instant::now() + Duration::from_secs(60)).unwrap(), (Vec::new(), true));
    }
}
