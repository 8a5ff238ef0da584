//! The messages between the agent and `parallax-lazy`: JSON, one in each packet, and descriptors beside it.
//!
//! The agent makes one connection for each layer and keeps it while the layer is served. Whoever is of another release refuses: the agent
//! then uses the layer's whole file.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parallax_format::digest::Sha256;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg, shutdown, socket_with,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::status::WorkerStatus;

/// Version of the messages, and of the slots.
pub const VERSION: u32 = 2;
/// Maximum size of a message in bytes.
const MAX_MESSAGE: usize = 32 << 10;
/// Maximum number of descriptors beside a message.
const MAX_DESCRIPTORS: usize = 5;
/// Timeout of sending.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// A message of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// Asks to serve a layer; first message of a connection. The descriptors are the device, the slots, the index of chunks, and, as
    /// the layer says, their trace and the layer's whole file.
    Serve(Layer),
    /// Asks to go on with a layer that an earlier agent had served; first message of a connection.
    Adopt(Adoption),
    /// Asks for [`FromWorker::Status`]; only message of a connection.
    Status {
        /// [`VERSION`] of the sender.
        version: u32,
    },
    /// Asks for [`FromWorker::Alive`].
    Ping,
}

/// A layer that is to be served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// [`VERSION`] of the sender.
    pub version: u32,
    /// The name of its mount, by which it can be adopted.
    pub mount: String,
    /// SHA-256 of the layer's file.
    pub sha256: Sha256,
    /// Its size in bytes.
    pub size: u64,
    /// The chunk store beside the index.
    pub chunk_store: PathBuf,
    /// Whether a trace comes with it.
    pub has_trace: bool,
    /// Whether the whole file comes with it, which the worker keeps for a later agent.
    pub has_whole: bool,
}

/// A layer that is to be adopted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// [`VERSION`] of the sender.
    pub version: u32,
    /// The name of its mount.
    pub mount: String,
}

/// A message of `parallax-lazy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromWorker {
    /// The layer is served.
    Serving,
    /// The layer is adopted. The descriptors are the device, the slots, the index of chunks and, if it came with the layer, the whole file.
    Adopted,
    /// The layer is not served.
    Refused {
        /// The reason, a part of a sentence.
        reason: String,
    },
    /// The answer to [`ToWorker::Status`].
    Status(WorkerStatus),
    /// The answer to [`ToWorker::Ping`].
    Alive,
    /// All of the file is there; the descriptor beside it is the file.
    Complete,
    /// A chunk cannot be had; readers wait.
    Waiting {
        /// The reason, a part of a sentence.
        reason: String,
    },
    /// A reader got an error.
    Failed {
        /// The reason, a part of a sentence.
        reason: String,
    },
}

/// An error of a connection.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other side closed the connection.
    #[error("the connection was closed")]
    Closed,
    /// No message came in time.
    #[error("there was no answer in time")]
    Timeout,
    /// Not a message of this kind.
    #[error("invalid message: {0}; parallax-agent and parallax-lazy may be of different releases")]
    Malformed(String),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Errno> for ChannelError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// A connection.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// Those of `connect(2)`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // A socket whose owner accepts nothing would be waited for.
        set_socket_timeout(&socket, Timeout::Send, Some(SEND_TIMEOUT))?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(socket))
    }

    /// Takes an accepted connection.
    ///
    /// # Errors
    /// Those of `setsockopt(2)`.
    pub fn accepted(socket: OwnedFd) -> io::Result<Self> {
        set_socket_timeout(&socket, Timeout::Send, Some(SEND_TIMEOUT))?;
        Ok(Self(socket))
    }

    /// Sends a message, with at most five descriptors.
    ///
    /// # Errors
    /// Those of `sendmsg(2)`.
    pub fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let message = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !rights.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        loop {
            match sendmsg(&self.0, &[IoSlice::new(&message)], &mut rights, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                sent => return sent.map(drop).map_err(Into::into),
            }
        }
    }

    /// Waits for a message; without a timeout for as long as it takes.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub fn receive<T: DeserializeOwned>(&self, timeout: Option<Duration>) -> Result<(T, Vec<OwnedFd>), ChannelError> {
        self.wait(timeout)?;
        let mut message = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(&self.0, &mut [IoSliceMut::new(&mut message)], &mut rights, RecvFlags::CMSG_CLOEXEC);
        let length = match received {
            Ok(received) => received.bytes,
            Err(Errno::CONNRESET) => 0,
            Err(error) => return Err(error.into()),
        };
        let descriptors = rights
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
                _ => Vec::new(),
            })
            .collect();
        match message.get(..length).unwrap_or_default() {
            [] => Err(ChannelError::Closed),
            bytes => serde_json::from_slice(bytes)
                .map(|message| (message, descriptors))
                .map_err(|error| ChannelError::Malformed(error.to_string())),
        }
    }

    fn wait(&self, timeout: Option<Duration>) -> Result<(), ChannelError> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let left = left.map(|left| Timespec::try_from(left).unwrap_or_default());
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], left.as_ref()) {
                Ok(0) => return Err(ChannelError::Timeout),
                Err(Errno::INTR) => {}
                polled => return polled.map(drop).map_err(Into::into),
            }
        }
    }

    /// Ends the connection, for all who have its descriptor.
    pub fn end(&self) {
        let _ = shutdown(&self.0, Shutdown::Both);
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Seek as _, Write as _};

    use rustix::net::socketpair;

    use super::*;

    fn pair() -> [Channel; 2] {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        [one, other].map(|socket| Channel::accepted(socket).unwrap())
    }

    #[test]
    fn messages_arrive_with_their_descriptors() {
        let [agent, worker] = pair();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        file.rewind().unwrap();
        let sha256 = Sha256::from([7; 32]);
        let layer = Layer {
            version: VERSION,
            mount: "abc.1".to_owned(),
            sha256,
            size: 7,
            chunk_store: "/store/default.castr".into(),
            has_trace: false,
            has_whole: false,
        };
        agent.send(&ToWorker::Serve(layer.clone()), &[file.as_fd(), file.as_fd(), file.as_fd()]).unwrap();
        agent.send(&ToWorker::Ping, &[]).unwrap();
        let (message, descriptors) = worker.receive::<ToWorker>(None).unwrap();
        assert_eq!((message, descriptors.len()), (ToWorker::Serve(layer), 3));
        let mut text = String::new();
        File::from(descriptors.into_iter().next().unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        assert_eq!(worker.receive::<ToWorker>(None).unwrap().0, ToWorker::Ping);
        assert!(matches!(worker.receive::<ToWorker>(Some(Duration::ZERO)), Err(ChannelError::Timeout)));
        agent.send(&"something else", &[]).unwrap();
        assert!(matches!(worker.receive::<ToWorker>(None), Err(ChannelError::Malformed(_))));
        agent.end();
        assert!(matches!(worker.receive::<ToWorker>(None), Err(ChannelError::Closed)));
    }
}
