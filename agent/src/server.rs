//! Accepts connections and answers requests; root only.
//!
//! One thread per connection: a node has as many as it has steps, and each of them sleeps. A connection that got a lease is
//! the lease: when it ends, or the process on its other side does, the lease is released.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use parallax_protocol::frame::{self, FrameError};
use parallax_protocol::message::{LeaseRequest, Request, Response, StepId};
use parallax_sys::process::Process;
use rustix::event::{PollFd, PollFlags, poll};

use crate::journal::Owner;
use crate::lease::Leases;

/// How long a request may take to arrive, and a response to be taken.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most connections that are served at once.
const MAX_CONNECTIONS: usize = 4096;
/// The stack of a connection's thread, in bytes.
const STACK: usize = 512 * 1024;

/// Makes the agent's socket, in place of one that an earlier agent left. Only root can connect to it.
///
/// # Errors
/// What the system said.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves for ever.
///
/// # Errors
/// The socket is of no more use.
pub fn serve(listener: &UnixListener, leases: &Arc<Leases>) -> io::Result<()> {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let (stream, _) = match listener.accept() {
            Ok(accepted) => accepted,
            // The connection was given up before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        if open.load(Ordering::Relaxed) >= MAX_CONNECTIONS {
            tracing::warn!("too many connections: one is turned away");
            continue;
        }
        let (leases, counter) = (Arc::clone(leases), Arc::clone(&open));
        counter.fetch_add(1, Ordering::Relaxed);
        let spawned = thread::Builder::new().name("connection".to_owned()).stack_size(STACK).spawn(move || {
            if let Err(error) = converse(&stream, &leases) {
                tracing::warn!("a connection failed: {error}");
            }
            counter.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(error) = spawned {
            open.fetch_sub(1, Ordering::Relaxed);
            tracing::error!("no thread for a connection: {error}");
        }
    }
}

/// Watches over a lease of an earlier agent, whose connection is gone: it ends with its process.
///
/// # Errors
/// No thread could be started.
pub fn watch(step: StepId, owner: Process, leases: &Arc<Leases>) -> io::Result<()> {
    let leases = Arc::clone(leases);
    let body = move || {
        let _ = poll(&mut [PollFd::new(&owner, PollFlags::IN)], None);
        leases.release(step);
    };
    thread::Builder::new().name("adopted lease".to_owned()).stack_size(STACK).spawn(body).map(drop)
}

fn converse(stream: &UnixStream, leases: &Leases) -> Result<(), FrameError> {
    stream.set_nonblocking(true)?;
    let peer = getsockopt(stream, PeerCredentials).map_err(io::Error::from)?;
    if peer.uid() != 0 {
        return Ok(());
    }
    let request: Request = match frame::receive(stream, deadline()) {
        // Whoever only looks whether anybody listens.
        Err(FrameError::Closed) => return Ok(()),
        request => request?,
    };
    match request {
        Request::Lease(request) => hold_lease(stream, request, peer.pid(), leases),
        Request::Release { step } => release(stream, step, leases),
        Request::Attach { step } => {
            let response = match leases.attach(step, peer.pid()) {
                Ok(()) => Response::Attached,
                Err(refusal) => Response::Refused { reason: refusal.to_string() },
            };
            frame::send(stream, &response, deadline())
        }
        Request::Status => frame::send(stream, &Response::Status(leases.status()), deadline()),
    }
}

/// Grants a lease and keeps it for as long as the connection and the process on its other side last.
fn hold_lease(stream: &UnixStream, request: LeaseRequest, pid: i32, leases: &Leases) -> Result<(), FrameError> {
    let step = request.step;
    let refuse = |reason: String| {
        tracing::warn!(step = %step, "refused: {reason}");
        frame::send(stream, &Response::Refused { reason }, deadline())
    };
    let (owner, process) = match (Owner::of(pid), Process::open(pid)) {
        (Ok(owner), Ok(process)) => (owner, process),
        (Err(error), _) | (_, Err(error)) => return refuse(format!("the step's slurmstepd can't be watched: {error}")),
    };
    let grant = match leases.acquire(request, owner) {
        Ok(grant) => grant,
        Err(refusal) => return refuse(refusal.to_string()),
    };
    let sent = frame::send(stream, &Response::Granted(grant), deadline());
    if sent.is_ok() {
        wait_for_end(stream, &process)?;
    }
    // Whether the other side asks for the release or is gone, the lease has ended.
    let asked = frame::receive::<Request>(stream, Instant::now()).is_ok();
    let problems = leases.release(step);
    if asked { frame::send(stream, &Response::Released { problems }, deadline()) } else { Ok(()) }
}

/// Waits until something is to be read, the connection is closed or the process has ended.
fn wait_for_end(stream: &UnixStream, process: &Process) -> Result<(), FrameError> {
    let mut events = [PollFd::new(stream, PollFlags::IN), PollFd::new(process, PollFlags::IN)];
    loop {
        match poll(&mut events, None) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
}

fn release(stream: &UnixStream, step: StepId, leases: &Leases) -> Result<(), FrameError> {
    let problems = leases.release(step);
    frame::send(stream, &Response::Released { problems }, deadline())
}

fn deadline() -> Instant {
    Instant::now() + PATIENCE
}
