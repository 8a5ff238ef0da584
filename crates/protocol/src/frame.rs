//! How a message lies on the socket: its length in bytes, 32 bits, little-endian, and then JSON with the version in it.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::message::VERSION;

/// The largest message, in bytes.
pub const MAX_MESSAGE: usize = 256 * 1024;

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side is gone.
    #[error("the connection was closed")]
    Closed,
    /// Nothing came, or nothing was taken, in the time there was.
    #[error("there was no answer in time")]
    Timeout,
    /// A length over [`MAX_MESSAGE`].
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    /// The other side speaks another version.
    #[error(
        "the other side speaks version {0} of the protocol, this side version {VERSION}; restart what was not restarted after an update"
    )]
    Version(u32),
    /// Not JSON, or not a message of this kind.
    #[error("the message is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A system call failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for FrameError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

#[derive(Serialize)]
struct Outgoing<'a, M> {
    version: u32,
    message: &'a M,
}

#[derive(Deserialize)]
struct Incoming<M> {
    message: M,
}

#[derive(Deserialize)]
struct OnlyVersion {
    version: u32,
}

/// Sends a message on a non-blocking stream socket.
///
/// # Errors
/// [`FrameError::Timeout`] if the other side did not take it by `deadline`, [`FrameError::Closed`] if it is gone.
pub fn send(socket: impl AsFd, message: &impl Serialize, deadline: Instant) -> Result<(), FrameError> {
    let body = serde_json::to_vec(&Outgoing { version: VERSION, message })?;
    if body.len() > MAX_MESSAGE {
        return Err(FrameError::TooLong(body.len()));
    }
    let length = u32::try_from(body.len()).map_err(|_| FrameError::TooLong(body.len()))?;
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        match rustix::net::send(&socket, rest, rustix::net::SendFlags::NOSIGNAL) {
            Ok(sent) => rest = &rest[sent..],
            Err(Errno::AGAIN) => wait(&socket, PollFlags::OUT, deadline)?,
            Err(Errno::INTR) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(FrameError::Closed),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Receives a message from a non-blocking stream socket.
///
/// # Errors
/// [`FrameError`]; after one the connection is of no more use.
pub fn receive<M: DeserializeOwned>(socket: impl AsFd, deadline: Instant) -> Result<M, FrameError> {
    let mut length = [0; 4];
    fill(&socket, &mut length, deadline)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_MESSAGE {
        return Err(FrameError::TooLong(length));
    }
    let mut body = vec![0; length];
    fill(&socket, &mut body, deadline)?;
    parse(&body)
}

/// Parses a message's body.
///
/// # Errors
/// [`FrameError::Version`] or [`FrameError::Malformed`].
pub fn parse<M: DeserializeOwned>(body: &[u8]) -> Result<M, FrameError> {
    let OnlyVersion { version } = serde_json::from_slice(body)?;
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    Ok(serde_json::from_slice::<Incoming<M>>(body)?.message)
}

fn fill(socket: &impl AsFd, mut buffer: &mut [u8], deadline: Instant) -> Result<(), FrameError> {
    while !buffer.is_empty() {
        match rustix::io::read(socket, &mut *buffer) {
            Ok(0) | Err(Errno::CONNRESET) => return Err(FrameError::Closed),
            Ok(read) => buffer = &mut buffer[read..],
            Err(Errno::AGAIN) => wait(socket, PollFlags::IN, deadline)?,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn wait(socket: &impl AsFd, events: PollFlags, deadline: Instant) -> Result<(), FrameError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| FrameError::Timeout)?;
        match poll(&mut [PollFd::new(socket, events)], Some(&timeout)) {
            Ok(0) => return Err(FrameError::Timeout),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;
    use crate::message::{Request, StepId};

    fn pair() -> (UnixStream, UnixStream) {
        let (a, b) = UnixStream::pair().unwrap();
        a.set_nonblocking(true).unwrap();
        b.set_nonblocking(true).unwrap();
        (a, b)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    #[test]
    fn a_message_arrives_as_it_was_sent() {
        let (a, b) = pair();
        let request = Request::Release { step: StepId { job: 1, step: 2, restart: 3 } };
        send(&a, &request, soon()).unwrap();
        assert_eq!(receive::<Request>(&b, soon()).unwrap(), request);
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let (_a, b) = pair();
        assert!(matches!(receive::<Request>(&b, soon()), Err(FrameError::Timeout)));
    }

    #[test]
    fn a_closed_connection_and_half_a_message() {
        let (mut a, b) = pair();
        a.write_all(&[9, 0, 0, 0, b'{']).unwrap();
        drop(a);
        assert!(matches!(receive::<Request>(&b, soon()), Err(FrameError::Closed)));
    }

    #[test]
    fn a_length_that_is_too_long_is_not_allocated() {
        let (mut a, b) = pair();
        a.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(matches!(receive::<Request>(&b, soon()), Err(FrameError::TooLong(_))));
    }

    #[test]
    fn another_version_and_garbage() {
        assert!(matches!(parse::<Request>(br#"{"version":2,"message":"status"}"#), Err(FrameError::Version(2))));
        assert!(matches!(parse::<Request>(b"\xff\x00"), Err(FrameError::Malformed(_))));
        assert!(matches!(parse::<Request>(br#"{"version":1,"message":"stats"}"#), Err(FrameError::Malformed(_))));
    }
}
