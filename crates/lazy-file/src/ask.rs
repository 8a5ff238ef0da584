//! The question for the state of a node's `parallax-lazy`.

use std::path::Path;
use std::time::Duration;

use crate::message::{Channel, ChannelError, FromWorker, ToWorker, VERSION};
use crate::status::WorkerStatus;

/// An error of the question.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There was no answer.
    #[error(transparent)]
    Silent(#[from] ChannelError),
    /// The request was refused; the reason.
    #[error("parallax-lazy refused the request: {0}")]
    Refused(String),
    /// Another message came.
    #[error("unexpected answer of parallax-lazy")]
    Unexpected,
}

/// Asks the `parallax-lazy` of a socket for its state. `timeout` is that of the answer.
///
/// # Errors
/// [`AskError`].
pub fn ask_status(socket: &Path, timeout: Duration) -> Result<WorkerStatus, AskError> {
    let channel = Channel::connect(socket).map_err(ChannelError::Io)?;
    channel.send(&ToWorker::Status { version: VERSION }, &[]).map_err(ChannelError::Io)?;
    match channel.receive(Some(timeout))? {
        (FromWorker::Status(status), _) => Ok(status),
        (FromWorker::Refused { reason }, _) => Err(AskError::Refused(reason)),
        _ => Err(AskError::Unexpected),
    }
}
