//! A connection: ssh as a child process, and requests over its pipes, many at a time.

use std::collections::HashMap;
use std::io::{self, Read, Write as _};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use super::packet::{self, Answer, MAX_SIZE, Request};
use crate::source::SourceError;

/// Size in bytes of the first read of a file, which is all of most chunks.
const FIRST_READ: u32 = 128 << 10;
/// Size in bytes of further reads, which every server answers as a whole.
const FURTHER_READ: u32 = 32 << 10;
/// How long messages of ssh are waited for after its end: a program that it started may have its descriptor.
const MESSAGES_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum size of the messages in bytes.
const MAX_MESSAGES: usize = 16 << 10;

/// Timeouts of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    /// Of the connection attempt, and of an answer.
    pub(super) answer: Duration,
    /// After which an unused connection is closed: a server has a process for each.
    pub(super) idle: Duration,
}

/// Why a file was not read.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection has ended, so another one may serve.
    Lost(SourceError),
    /// The server did not answer in time.
    Silent(SourceError),
    /// The server does not return the file.
    File(SourceError),
}

/// A connection. Its child process ends with this value.
#[derive(Debug)]
pub(super) struct Connection {
    input: Mutex<ChildStdin>,
    shared: Arc<Shared>,
    timeouts: Timeouts,
}

/// What the thread that reads answers needs.
#[derive(Debug)]
struct Shared {
    child: Mutex<Child>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: u32,
    /// Those who wait for answers, by the numbers of their requests.
    waiting: HashMap<u32, SyncSender<Answer>>,
    used: Instant,
    /// Why the connection has ended.
    end: Option<SourceError>,
}

impl Connection {
    /// Starts a program that connects to a server, and waits until the server answers. `reason` makes the reason of the messages that the
    /// program printed when it ended.
    ///
    /// # Errors
    /// The server did not answer.
    pub(super) fn open(
        command: &mut Command,
        timeouts: Timeouts,
        reason: impl FnOnce(&str) -> SourceError + Send + 'static,
    ) -> Result<Self, SourceError> {
        let failed = |error: io::Error| SourceError::Temporary(format!("cannot connect: {error}"));
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned
            .map_err(|error| SourceError::Permanent(format!("cannot run ssh: {error}; install the OpenSSH client")))?;
        let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(failed(io::Error::other("no pipes")));
        };
        let state = State { next: 0, waiting: HashMap::new(), used: Instant::now(), end: None };
        let shared = Arc::new(Shared { child: Mutex::new(child), state: Mutex::new(state) });
        let connection = Self { input: Mutex::new(input), shared: Arc::clone(&shared), timeouts };
        let input = connection.input();
        fcntl_getfl(&*input)
            .and_then(|flags| fcntl_setfl(&*input, flags | OFlags::NONBLOCK))
            .map_err(|error| failed(error.into()))?;
        drop(input);
        let (ready, is_ready) = sync_channel(1);
        let thread = thread::Builder::new().name("ssh".to_owned());
        let messages = messages(errors).map_err(failed)?;
        let read = move || {
            let end = shared.read_answers(output, &ready, timeouts.idle);
            shared.finish(end, &messages, reason);
        };
        thread.spawn(read).map_err(failed)?;
        // If this fails, the thread knows why.
        let _ = connection.write(&packet::init());
        match is_ready.recv_timeout(timeouts.answer) {
            Ok(()) => Ok(connection),
            Err(RecvTimeoutError::Timeout) => Err(connection.give_up()),
            Err(RecvTimeoutError::Disconnected) => Err(connection.ended()),
        }
    }

    /// Whether requests can be sent.
    pub(super) fn is_open(&self) -> bool {
        self.shared.state().end.is_none()
    }

    /// Returns a file, which has at most `max` bytes.
    pub(super) fn read_file(&self, path: &str, max: usize) -> Result<Vec<u8>, Failure> {
        let opened = self.send(Request::Open(path))?;
        let handle = match self.wait(&opened)? {
            Answer::Handle(handle) => Open { connection: self, handle },
            other => return Err(Failure::File(other.error())),
        };
        // Both are on their way together, so a chunk takes two round trips.
        let size = self.send(Request::Stat(&handle.handle))?;
        let first = self.read(&handle, 0, FIRST_READ)?;
        let size = match self.wait(&size)? {
            Answer::Size(Some(size)) => size,
            Answer::Size(None) => return Err(permanent("the server does not know the size of files")),
            other => return Err(Failure::File(other.error())),
        };
        if size > max as u64 {
            return Err(permanent("the chunk's file is too large"));
        }
        let mut content = match self.wait(&first)? {
            Answer::Data(data) => data,
            // Nothing can be read of an empty file.
            Answer::Status { code: 1, .. } if size == 0 => Vec::new(),
            other => return Err(Failure::File(other.error())),
        };
        let mut further = Vec::new();
        let mut offset = content.len() as u64;
        while offset < size {
            let part = u32::try_from(size - offset).unwrap_or(u32::MAX).min(FURTHER_READ);
            further.push(self.read(&handle, offset, part)?);
            offset += u64::from(part);
        }
        for part in further {
            match self.wait(&part)? {
                Answer::Data(data) => content.extend(data),
                other => return Err(Failure::File(other.error())),
            }
        }
        if content.len() as u64 == size {
            Ok(content)
        } else {
            Err(Failure::File(SourceError::Temporary(
                "the server returned another number of bytes than asked".to_owned(),
            )))
        }
    }

    fn read(&self, file: &Open<'_>, offset: u64, size: u32) -> Result<Receiver<Answer>, Failure> {
        self.send(Request::Read { handle: &file.handle, offset, size })
    }

    /// Sends a request. Its answer comes by the channel.
    fn send(&self, request: Request<'_>) -> Result<Receiver<Answer>, Failure> {
        let (sender, answer) = sync_channel(1);
        let number = self.shared.number(Some(sender)).map_err(Failure::Lost)?;
        // If this fails, the channel ends when the thread knows why.
        let _ = self.write(&request.packet(number));
        Ok(answer)
    }

    fn wait(&self, answer: &Receiver<Answer>) -> Result<Answer, Failure> {
        match answer.recv_timeout(self.timeouts.answer) {
            Ok(answer) => Ok(answer),
            Err(RecvTimeoutError::Timeout) => Err(Failure::Silent(self.give_up())),
            Err(RecvTimeoutError::Disconnected) => Err(Failure::Lost(self.ended())),
        }
    }

    /// Writes a packet as a whole, or ends the child process.
    fn write(&self, packet: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + self.timeouts.answer;
        let mut input = self.input();
        let written = write_until(&mut input, packet, deadline);
        if written.is_err() {
            self.shared.kill();
        }
        written
    }

    /// Ends a connection that does not answer.
    fn give_up(&self) -> SourceError {
        let reason = format!("the server does not answer for {} s", self.timeouts.answer.as_secs());
        let reason = self.shared.end(SourceError::Temporary(reason));
        self.shared.kill();
        reason
    }

    fn ended(&self) -> SourceError {
        self.shared.end(SourceError::Temporary("the connection has ended".to_owned()))
    }

    fn input(&self) -> MutexGuard<'_, ChildStdin> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The thread that reads answers waits for the child.
        self.shared.kill();
    }
}

fn permanent(reason: &str) -> Failure {
    Failure::File(SourceError::Permanent(reason.to_owned()))
}

/// An open file. It is closed with this value.
struct Open<'a> {
    connection: &'a Connection,
    handle: Vec<u8>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        // Nobody waits for the answer.
        if let Ok(number) = self.connection.shared.number(None) {
            let _ = self.connection.write(&Request::Close(&self.handle).packet(number));
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of a new request, whose answer goes to `waiting`.
    fn number(&self, waiting: Option<SyncSender<Answer>>) -> Result<u32, SourceError> {
        let mut state = self.state();
        if let Some(end) = &state.end {
            return Err(end.clone());
        }
        let number = state.next;
        state.next = number.wrapping_add(1);
        state.used = Instant::now();
        if let Some(waiting) = waiting {
            state.waiting.insert(number, waiting);
        }
        Ok(number)
    }

    /// Notes the end of the connection. Returns the reason, an earlier one if there is one.
    fn end(&self, reason: SourceError) -> SourceError {
        let mut state = self.state();
        let end = state.end.get_or_insert(reason).clone();
        state.waiting.clear();
        end
    }

    fn kill(&self) {
        // Fails if it has ended.
        let _ = self.child.lock().unwrap_or_else(PoisonError::into_inner).kill();
    }

    /// Reads answers until the connection ends. Returns the reason, unless the messages of ssh have it.
    fn read_answers(&self, mut output: ChildStdout, ready: &SyncSender<()>, idle: Duration) -> Option<SourceError> {
        let malformed = || Some(SourceError::Permanent("the server does not speak SFTP, version 3".to_owned()));
        match read_packet(&mut output) {
            Ok(packet) if packet::is_version(&packet) => {}
            Ok(_) => return malformed(),
            Err(error) => return invalid(&error),
        }
        let _ = ready.send(());
        loop {
            match is_readable(&output, idle) {
                Ok(true) => {}
                Ok(false) if self.is_idle(idle) => {
                    return Some(SourceError::Temporary("the connection was closed, since it was not used".to_owned()));
                }
                Ok(false) => continue,
                Err(error) => return Some(SourceError::Temporary(error.to_string())),
            }
            let packet = match read_packet(&mut output) {
                Ok(packet) => packet,
                Err(error) => return invalid(&error),
            };
            let Some((number, answer)) = packet::parse(&packet) else { return malformed() };
            let waiting = self.state().waiting.remove(&number);
            // Whoever waited may have given up.
            let _ = waiting.map(|waiting| waiting.send(answer));
        }
    }

    /// Whether nobody uses the connection. Then no more requests are accepted.
    fn is_idle(&self, idle: Duration) -> bool {
        let mut state = self.state();
        let is_idle = state.waiting.is_empty() && state.used.elapsed() >= idle;
        if is_idle {
            state
                .end
                .get_or_insert(SourceError::Temporary("the connection was closed, since it was not used".to_owned()));
        }
        is_idle
    }

    /// Waits for the child, and ends all waiting with the reason.
    fn finish(&self, end: Option<SourceError>, messages: &Receiver<String>, reason: impl FnOnce(&str) -> SourceError) {
        self.kill();
        if let Err(error) = self.child.lock().unwrap_or_else(PoisonError::into_inner).wait() {
            tracing::warn!("cannot wait for ssh: {error}");
        }
        let messages = messages.recv_timeout(MESSAGES_TIMEOUT).unwrap_or_default();
        self.end(end.unwrap_or_else(|| reason(&messages)));
    }
}

/// Returns the reason if a packet was malformed; not if the stream has ended.
fn invalid(error: &io::Error) -> Option<SourceError> {
    (error.kind() == io::ErrorKind::InvalidData).then(|| SourceError::Permanent(error.to_string()))
}

/// Collects the messages that ssh prints, the last ones if there are many.
fn messages(mut errors: ChildStderr) -> io::Result<Receiver<String>> {
    let (sender, messages) = sync_channel(1);
    let collect = move || {
        let mut all = Vec::new();
        let mut buffer = [0; 1024];
        while let Ok(size @ 1..) = errors.read(&mut buffer) {
            all.extend(buffer.get(..size).unwrap_or_default());
            let surplus = all.len().saturating_sub(MAX_MESSAGES);
            all.drain(..surplus);
        }
        let _ = sender.send(String::from_utf8_lossy(&all).into_owned());
    };
    thread::Builder::new().name("ssh messages".to_owned()).spawn(collect)?;
    Ok(messages)
}

/// Reads a packet, without its length.
fn read_packet(output: &mut ChildStdout) -> io::Result<Vec<u8>> {
    let mut size = [0; 4];
    output.read_exact(&mut size)?;
    let size = u32::from_be_bytes(size);
    if !(1..=MAX_SIZE).contains(&size) {
        let reason = "the server does not speak SFTP: what the account's shell prints may be in the way";
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    let mut packet = vec![0; usize::try_from(size).unwrap_or_default()];
    output.read_exact(&mut packet)?;
    Ok(packet)
}

fn write_until(input: &mut ChildStdin, mut packet: &[u8], deadline: Instant) -> io::Result<()> {
    while !packet.is_empty() {
        match input.write(packet) {
            Ok(size) => packet = packet.get(size..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(Instant::now());
                if !is_ready(PollFd::new(input, PollFlags::OUT), left)? {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_readable(output: &ChildStdout, timeout: Duration) -> io::Result<bool> {
    is_ready(PollFd::new(output, PollFlags::IN), timeout)
}

/// Waits until a descriptor is ready; a signal ends waiting early.
fn is_ready(descriptor: PollFd<'_>, timeout: Duration) -> io::Result<bool> {
    let timeout = Timespec::try_from(timeout).unwrap_or_default();
    match poll(&mut [descriptor], Some(&timeout)) {
        Err(Errno::INTR) => Ok(false),
        ready => Ok(ready? > 0),
    }
}
