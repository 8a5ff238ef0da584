//! What workers do: answer a request, and end a lease.

use std::os::unix::net::UnixStream;
use std::time::Instant;

use parallax_protocol::frame::{self, FrameError};
use parallax_protocol::message::{LeaseRequest, Request, Response};
use parallax_sys::process::Process;

use super::PATIENCE;
use super::workers::Outcome;
use crate::journal::Owner;
use crate::lease::{Cause, LeaseKey, Leases};

/// Answers a request of the process `peer`.
pub fn request(stream: &UnixStream, request: Request, peer: i32, leases: &Leases) -> Outcome {
    let response = match request {
        Request::Lease(request) => return lease(stream, request, peer, leases),
        Request::Release { step } => Response::Released { problems: leases.release_step(step, Cause::Asked) },
        Request::ReleaseJob { job, step } => {
            let (steps, problems) = leases.release_job(job, step, Cause::Command);
            Response::ReleasedSteps { steps, problems }
        }
        Request::Attach { step } => match leases.attach(step, peer) {
            Ok(()) => Response::Attached,
            Err(refusal) => Response::Refused { reason: refusal.to_string() },
        },
        Request::Status => Response::Status(leases.status()),
        Request::Metrics => {
            leases.observe();
            Response::Metrics { text: leases.metrics().text() }
        }
    };
    log(send(stream, &response));
    Outcome::Over
}

/// Grants a lease. If it does not arrive it ends at once.
fn lease(stream: &UnixStream, request: LeaseRequest, peer: i32, leases: &Leases) -> Outcome {
    let (step, mode) = (request.step, request.mode);
    let _span = tracing::info_span!("lease", job = step.job, step = %step).entered();
    let started = Instant::now();
    let granted = granted(request, peer, leases);
    match granted {
        Ok((key, process, response)) => {
            leases.metrics().granted(mode, started.elapsed());
            if send(stream, &response).is_ok() {
                return Outcome::Holds(key, process);
            }
            leases.release(&key, Cause::Connection);
        }
        Err(reason) => {
            tracing::warn!(step = %step, "refused: {reason}");
            leases.metrics().refused();
            log(send(stream, &Response::Refused { reason }));
        }
    }
    Outcome::Over
}

fn granted(request: LeaseRequest, peer: i32, leases: &Leases) -> Result<(LeaseKey, Process, Response), String> {
    if let Some(fault) = request.fault() {
        return Err(format!("{fault}; tell the administrator"));
    }
    let watch = |error| format!("the step's slurmstepd can't be watched: {error}; tell the administrator");
    let owner = Owner::of(peer).map_err(watch)?;
    let process = Process::open(peer).map_err(watch)?;
    let (key, grant) = leases.acquire(request, owner).map_err(|refusal| refusal.to_string())?;
    Ok((key, process, Response::Granted(grant)))
}

/// Ends a lease whose connection has something to say or is closed, or whose process has ended.
pub fn end(stream: Option<&UnixStream>, key: &LeaseKey, cause: Cause, leases: &Leases) -> Outcome {
    // Whatever is asked on a lease's connection, it is its end.
    let asked = |stream| frame::receive::<Request>(stream, Instant::now() + PATIENCE).is_ok();
    match stream.filter(|&stream| cause != Cause::Process && asked(stream)) {
        Some(stream) => {
            let problems = leases.release(key, Cause::Asked);
            log(send(stream, &Response::Released { problems }));
        }
        None => drop(leases.release(key, cause)),
    }
    Outcome::Over
}

fn send(stream: &UnixStream, response: &Response) -> Result<(), FrameError> {
    frame::send(stream, response, Instant::now() + PATIENCE)
}

fn log(sent: Result<(), FrameError>) {
    if let Err(error) = sent {
        tracing::debug!("a response was not taken: {error}");
    }
}
