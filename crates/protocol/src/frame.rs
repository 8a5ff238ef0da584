//! The encoding of a message on the socket: its length in bytes, 32 bits, little-endian, and then JSON with the version in it.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::message::{VERSION, Versioned};

/// Maximum size of a message in bytes.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// Maximum size of a request in bytes; smaller than that of a response.
pub const MAX_REQUEST: usize = 16 * 1024;
/// The length that comes before a message, in bytes.
const HEADER: usize = 4;

/// An error of sending or receiving a message.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer closed the connection.
    #[error("the connection was closed")]
    Closed,
    /// The deadline was exceeded.
    #[error("there was no answer in time")]
    Timeout,
    /// A length over [`MAX_MESSAGE`].
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    /// The message needs a newer version than this side's.
    #[error(
        "unsupported message: the other side is of a newer release (protocol version {0}, here {VERSION}); \
         restart the agent and use programs of one release"
    )]
    Version(u32),
    /// Not JSON, or not a message of this kind.
    #[error("invalid message: {0}; agent, plugin and command may be of different releases")]
    Malformed(serde_json::Error),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

// The message contains the cause; as a source it would be printed twice.
impl From<serde_json::Error> for FrameError {
    fn from(error: serde_json::Error) -> Self {
        Self::Malformed(error)
    }
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
struct Received<M> {
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
pub fn send(socket: impl AsFd, message: &(impl Serialize + Versioned), deadline: Instant) -> Result<(), FrameError> {
    let body = serde_json::to_vec(&Outgoing { version: message.version(), message })?;
    if body.len() > MAX_MESSAGE {
        return Err(FrameError::TooLong(body.len()));
    }
    let length = u32::try_from(body.len()).map_err(|_| FrameError::TooLong(body.len()))?;
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        match rustix::net::send(&socket, rest, rustix::net::SendFlags::NOSIGNAL) {
            Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
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
/// [`FrameError`]; the connection is unusable afterwards.
pub fn receive<M: DeserializeOwned>(socket: impl AsFd, deadline: Instant) -> Result<M, FrameError> {
    let mut incoming = Incoming::new(MAX_MESSAGE);
    loop {
        match incoming.read(&socket)? {
            Some(body) => return parse(&body),
            None => wait(&socket, PollFlags::IN, deadline)?,
        }
    }
}

/// A message that is on its way in. It takes no more memory than has arrived, whatever length was announced.
#[derive(Debug)]
pub struct Incoming {
    limit: usize,
    bytes: Vec<u8>,
}

impl Incoming {
    /// Makes an empty message whose body may have `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, bytes: Vec::new() }
    }

    /// Reads what is there on a non-blocking stream socket, and never what comes behind the message. Returns its body once all
    /// of it is there, and `None` if more has to come.
    ///
    /// # Errors
    /// [`FrameError::Closed`], [`FrameError::TooLong`], or what the system said.
    pub fn read(&mut self, socket: impl AsFd) -> Result<Option<Vec<u8>>, FrameError> {
        let mut piece = [0; 4096];
        loop {
            let wanted = match self.bytes.split_first_chunk::<HEADER>() {
                None => HEADER - self.bytes.len(),
                Some((header, body)) => {
                    let length = u32::from_le_bytes(*header) as usize;
                    if length > self.limit {
                        return Err(FrameError::TooLong(length));
                    }
                    if body.len() == length {
                        return Ok(Some(std::mem::take(&mut self.bytes).split_off(HEADER)));
                    }
                    length - body.len()
                }
            };
            let room = wanted.min(piece.len());
            match rustix::io::read(&socket, piece.get_mut(..room).unwrap_or_default()) {
                Ok(0) | Err(Errno::CONNRESET) => return Err(FrameError::Closed),
                Ok(read) => self.bytes.extend_from_slice(piece.get(..read).unwrap_or_default()),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Returns `true` if nothing has arrived yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Parses a message's body.
///
/// # Errors
/// [`FrameError::Version`] or [`FrameError::Malformed`].
pub fn parse<M: DeserializeOwned>(body: &[u8]) -> Result<M, FrameError> {
    let OnlyVersion { version } = serde_json::from_slice(body)?;
    if version > VERSION {
        return Err(FrameError::Version(version));
    }
    Ok(serde_json::from_slice::<Received<M>>(body)?.message)
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
    fn a_message_in_pieces_is_put_together_and_the_next_one_is_left() {
        let (mut a, b) = pair();
        let request = Request::Status;
        send(&a, &request, soon()).unwrap();
        let mut bytes = vec![0; 128];
        let length = rustix::io::read(&b, &mut bytes).unwrap();
        let mut incoming = Incoming::new(MAX_REQUEST);
        for byte in &bytes[..length - 1] {
            a.write_all(&[*byte]).unwrap();
            assert!(incoming.read(&b).unwrap().is_none());
        }
        a.write_all(&bytes[length - 1..length]).unwrap();
        a.write_all(b"next").unwrap();
        assert_eq!(parse::<Request>(&incoming.read(&b).unwrap().unwrap()).unwrap(), request);
        assert_eq!(rustix::io::read(&b, &mut bytes).unwrap(), 4);
    }

    #[test]
    fn fields_of_a_later_release_are_passed_over() {
        let step = r#"{"job":1,"step":2,"restart":3,"later":{}}"#;
        let release = format!(r#"{{"version":1,"later":1,"message":{{"release":{{"step":{step},"later":[]}}}}}}"#);
        let expected = Request::Release { step: StepId { job: 1, step: 2, restart: 3 } };
        assert_eq!(parse::<Request>(release.as_bytes()).unwrap(), expected);
        let lease = format!(
            r#"{{"version":1,"message":{{"lease":{{"step":{step},"uid":7,"gid":7,"image":"a","mode":"run","later":1}}}}}}"#
        );
        let Request::Lease(request) = parse(lease.as_bytes()).unwrap() else { panic!("{lease}") };
        assert_eq!((request.uid, request.image_id), (7, None));
    }

    #[test]
    fn another_version_and_garbage() {
        assert!(matches!(parse::<Request>(br#"{"version":3,"message":"status"}"#), Err(FrameError::Version(3))));
        assert!(matches!(parse::<Request>(br#"{"version":3,"message":{"later":7}}"#), Err(FrameError::Version(3))));
        assert!(matches!(parse::<Request>(b"\xff\x00"), Err(FrameError::Malformed(_))));
        assert!(matches!(parse::<Request>(br#"{"version":1,"message":"stats"}"#), Err(FrameError::Malformed(_))));
    }
}
