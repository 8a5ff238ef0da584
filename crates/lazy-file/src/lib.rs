//! What the agent and `parallax-lazy` share: a layer's file that is served by FUSE, and the messages between the two.
//!
//! The file is the root of a FUSE file system that is attached nowhere; a loop device reads it. The agent makes it and keeps a copy of
//! every descriptor, `parallax-lazy` answers the requests. Requests are read into shared memory, so that one of the two can answer what the
//! other has read.
//!
//! - [`request`]: FUSE's protocol for one read-only file; no I/O.
//! - [`Device`]: requests read into shared memory, and answered.
//! - [`message`]: the messages, with the descriptors that they carry; [`status`]: what `parallax-lazy` tells of itself, if it is asked ([`ask_status`]).
//!
//! No crate serves: `fuser` 0.18 cannot take over a device that is in use, and has its requests in its own memory.

mod ask;
mod device;
pub mod message;
pub mod request;
pub mod status;

pub use ask::{AskError, ask_status};
pub use device::{Content, Device};
