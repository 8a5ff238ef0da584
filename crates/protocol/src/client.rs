//! A connection to the agent.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::frame::{self, FrameError};
use crate::message::{Request, Response};

/// An error of a request to the agent: one sentence for the user of a node.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No process listens on the socket.
    #[error(
        "the Parallax agent is not running on this node (no process listens on {socket}); tell the administrator, or try another node"
    )]
    NotRunning {
        /// The agent's socket.
        socket: PathBuf,
    },
    /// The socket's queue is full, or access is denied.
    #[error("cannot reach the Parallax agent at {socket}: {cause}; tell the administrator")]
    Connect {
        /// The agent's socket.
        socket: PathBuf,
        /// Those of the system calls.
        cause: std::io::Error,
    },
    /// The connection broke or nothing came in time.
    #[error("the request to the Parallax agent failed: {0}; tell the administrator")]
    Exchange(FrameError),
}

// The message contains the cause; as a source it would be printed twice.
impl From<FrameError> for ClientError {
    fn from(error: FrameError) -> Self {
        Self::Exchange(error)
    }
}

/// A connection to the agent. It is closed on exec.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
}

impl Client {
    /// Connects without ever waiting: an agent that does not accept connections fails at once when its queue is full, and
    /// takes no connection's time before.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] or [`ClientError::Connect`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let failed = |errno: Errno| match errno {
            Errno::NOENT | Errno::CONNREFUSED => ClientError::NotRunning { socket: path.to_owned() },
            other => ClientError::Connect { socket: path.to_owned(), cause: other.into() },
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed)?;
        connect(&socket, &SocketAddrUnix::new(path).map_err(failed)?).map_err(failed)?;
        Ok(Self { socket })
    }

    /// Sends a request.
    ///
    /// # Errors
    /// [`ClientError::Exchange`].
    pub fn send(&self, request: &Request, deadline: Instant) -> Result<(), ClientError> {
        Ok(frame::send(&self.socket, request, deadline)?)
    }

    /// Receives the response to the request sent before.
    ///
    /// # Errors
    /// [`ClientError::Exchange`].
    pub fn receive(&self, deadline: Instant) -> Result<Response, ClientError> {
        Ok(frame::receive(&self.socket, deadline)?)
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_agent_is_reported_in_one_sentence() {
        let message = Client::connect(Path::new("/nonexistent/agent.sock")).unwrap_err().to_string();
        assert!(message.contains("is not running") && message.contains("/nonexistent/agent.sock"), "{message}");
    }
}
