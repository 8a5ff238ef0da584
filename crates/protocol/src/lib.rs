//! What the plugin, the launcher, the command and the agent say to each other.
//!
//! - [`message`]: requests to the agent and its responses.
//! - [`frame`]: how a message lies on the socket: bounded, and never waited for without a deadline.
//! - [`client`]: a connection to the agent.
//! - [`node`]: what a node can do.
//! - [`step_file`]: what the agent leaves in a step's directory for the launcher.

pub mod client;
pub mod frame;
pub mod message;
pub mod node;
pub mod step_file;
