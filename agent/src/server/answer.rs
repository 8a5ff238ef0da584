//! The work of the workers: answering requests and releasing leases.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use parallax_protocol::frame::{self, FrameError};
use parallax_protocol::message::{LeaseRequest, Request, Response};
use parallax_sys::process::Process;

use super::workers::Outcome;
use crate::journal::Owner;
use crate::lease::refusal::refused;
use crate::lease::{Acquired, Cause, LeaseKey, Leases, Refusal};

/// Timeout for the arrival of a request and for the delivery of a response.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers a request of the process `peer`.
pub(super) fn request(stream: &UnixStream, request: Request, peer: i32, leases: &Leases) -> Outcome {
    let response = match request {
        Request::Lease(request) => return lease(stream, request, peer, leases),
        Request::Release { step } => Response::Released { problems: leases.release_step(step, Cause::Asked) },
        Request::ReleaseJob { job, step } => {
            let (steps, problems) = leases.release_job(job, step, Cause::Command);
            Response::ReleasedSteps { steps, problems }
        }
        Request::Attach { step } => match leases.attach(step, peer) {
            Ok(()) => Response::Attached,
            Err(refusal) => Response::refused(refusal.to_string()),
        },
        Request::Status => Response::Status(leases.status()),
        Request::Metrics => {
            leases.observe();
            Response::Metrics { text: leases.metrics().text() }
        }
    };
    log(send(stream, &response));
    Outcome::Done
}

/// Grants a lease. If it does not arrive it ends at once.
fn lease(stream: &UnixStream, request: LeaseRequest, peer: i32, leases: &Leases) -> Outcome {
    let (step, mode) = (request.step, request.mode);
    let _span = tracing::info_span!("lease", job = step.job, step = %step).entered();
    let started = Instant::now();
    let granted = granted(request, peer, leases);
    match granted {
        Ok((Acquired { key, grant, keeper }, process)) => {
            leases.metrics().granted(mode, started.elapsed());
            if send(stream, &Response::Granted(grant)).is_ok() {
                return Outcome::Lease(key, process, keeper);
            }
            leases.release(&key, Cause::Connection);
            if let Some((container, owner)) = keeper {
                return Outcome::Container(container, owner);
            }
        }
        Err(refusal) => {
            tracing::warn!(step = %step, "refused: {refusal}");
            leases.metrics().refused(refusal.kind);
            log(send(stream, &Response::Refused { reason: refusal.message, everywhere: refusal.everywhere }));
        }
    }
    Outcome::Done
}

fn granted(request: LeaseRequest, peer: i32, leases: &Leases) -> Result<(Acquired, Process), Refusal> {
    if let Some(fault) = request.fault() {
        return Err(refused(fault));
    }
    let watch = |error| refused(&format!("cannot watch the step's slurmstepd: {error}"));
    let owner = Owner::of(peer).map_err(watch)?;
    let process = Process::open(peer).map_err(watch)?;
    Ok((leases.acquire(request, owner)?, process))
}

/// Ends a lease whose connection is closed or asks for its release, or whose process has ended. Any other request on the connection
/// is refused and ends nothing: a plugin of another release may ask for what this agent does not know.
pub(super) fn end(
    stream: Option<&UnixStream>,
    key: LeaseKey,
    process: Process,
    cause: Cause,
    leases: &Leases,
) -> Outcome {
    let Some(stream) = stream.filter(|_| cause != Cause::Process) else {
        leases.release(&key, cause);
        return Outcome::Done;
    };
    let not_here = "unsupported request on the connection of a lease; agent and plugin may be of different releases";
    match frame::receive::<Request>(stream, Instant::now() + REQUEST_TIMEOUT) {
        Ok(Request::Release { .. }) => {
            let problems = leases.release(&key, Cause::Asked);
            log(send(stream, &Response::Released { problems }));
            Outcome::Done
        }
        Err(FrameError::Closed | FrameError::Io(_)) => {
            leases.release(&key, cause);
            Outcome::Done
        }
        Ok(_) => refuse(stream, not_here.to_owned(), key, process),
        Err(error @ (FrameError::Version(_) | FrameError::Malformed(_))) => {
            refuse(stream, error.to_string(), key, process)
        }
        // Where the next message begins is not known any more.
        Err(error @ (FrameError::Timeout | FrameError::TooLong(_))) => {
            tracing::warn!(job = key.step.job, step = %key.step, "unusable connection of a lease: {error}");
            Outcome::LeaseWithoutConnection(key, process)
        }
    }
}

fn refuse(stream: &UnixStream, reason: String, key: LeaseKey, process: Process) -> Outcome {
    tracing::warn!(job = key.step.job, step = %key.step, "refused on the connection of a lease: {reason}");
    log(send(stream, &Response::refused(reason)));
    Outcome::Lease(key, process, None)
}

fn send(stream: &UnixStream, response: &Response) -> Result<(), FrameError> {
    frame::send(stream, response, Instant::now() + REQUEST_TIMEOUT)
}

fn log(sent: Result<(), FrameError>) {
    if let Err(error) = sent {
        tracing::debug!("response not delivered: {error}");
    }
}
