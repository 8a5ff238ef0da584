//! The question to this node's `parallax-lazy`.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use parallax_lazy_file::status::WorkerStatus;
use parallax_lazy_file::{AskError, ask_status};

/// Timeout of the answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What to do if `parallax-lazy` does not answer.
pub(crate) const REMEDY: &str = "systemctl enable --now parallax-lazy.socket; systemctl restart parallax-lazy";

/// Asks `parallax-lazy` for its state.
///
/// # Errors
/// It does not answer, or is of another release.
pub(crate) fn status(socket: &Path) -> anyhow::Result<WorkerStatus> {
    match ask_status(socket, TIMEOUT) {
        Err(AskError::Silent(error)) => {
            Err(error).with_context(|| format!("parallax-lazy does not answer on {}", socket.display()))
        }
        answer => Ok(answer?),
    }
}
