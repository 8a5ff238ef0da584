//! The protocol between the plugin, the launcher, the command and the agent.
//!
//! - [`accounts`]: the names of a step's user and groups.
//! - [`message`]: requests to the agent and its responses.
//! - [`frame`]: the encoding of messages on the socket: bounded in size, and always with a deadline.
//! - [`client`]: a connection to the agent.
//! - [`node`]: the abilities of a node.
//! - [`step_file`]: the files in a step's directory for the launcher.

pub mod accounts;
pub mod client;
pub mod frame;
pub mod message;
pub mod node;
pub mod step_file;
