//! Messages between the plugin, the command and the agent.

use std::fmt::Debug;
use std::io::Write as _;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use parallax_protocol::frame::{FrameError, receive, send};
use parallax_protocol::message::{Request, Response, Versioned};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What fits into a socket's buffer, whose other side does not read yet.
const MOST: usize = 32 * 1024;

/// Any bytes on the socket are a message, which can be sent back as it is, or an error; nobody waits for more.
///
/// # Panics
/// If they are neither.
pub fn check(input: &[u8]) {
    let input = &input[..input.len().min(MOST)];
    converse::<Request>(input);
    converse::<Response>(input);
}

fn converse<M: Versioned + Serialize + DeserializeOwned + PartialEq + Debug>(input: &[u8]) {
    let (mut theirs, ours) = pair();
    theirs.write_all(input).expect("a socket takes this much");
    theirs.shutdown(Shutdown::Write).expect("a socket can be shut down");
    match receive::<M>(&ours, Instant::now()) {
        Ok(message) => {
            let (theirs, ours) = pair();
            send(&theirs, &message, Instant::now()).expect("what was received can be sent");
            assert_eq!(receive::<M>(&ours, Instant::now()).expect("what was sent can be received"), message);
        }
        Err(FrameError::Timeout) => panic!("it waited for more than there is"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn pair() -> (UnixStream, UnixStream) {
    let pair = UnixStream::pair().expect("sockets can be made");
    for socket in [&pair.0, &pair.1] {
        socket.set_nonblocking(true).expect("a socket can be non-blocking");
    }
    pair
}
