//! The question to this node's `parallax-lazy`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use parallax_lazy_file::message::{Channel, FromWorker, ToWorker, VERSION};
use parallax_lazy_file::status::WorkerStatus;

/// Timeout of the answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What to do if `parallax-lazy` does not answer.
pub(crate) const REMEDY: &str = "systemctl enable --now parallax-lazy.socket; systemctl restart parallax-lazy";

/// Asks `parallax-lazy` for its state.
///
/// # Errors
/// It does not answer, or is of another release.
pub(crate) fn status(socket: &Path) -> anyhow::Result<WorkerStatus> {
    let failed = || format!("parallax-lazy does not answer on {}", socket.display());
    let channel = Channel::connect(socket).with_context(failed)?;
    channel.send(&ToWorker::Status { version: VERSION }, &[]).with_context(failed)?;
    match channel.receive(Some(TIMEOUT)).with_context(failed)? {
        (FromWorker::Status(status), _) => Ok(status),
        (FromWorker::Refused { reason }, _) => bail!("parallax-lazy refused the request: {reason}"),
        _ => bail!("unexpected answer of parallax-lazy"),
    }
}
