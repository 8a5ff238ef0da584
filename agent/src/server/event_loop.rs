//! The event loop: one thread for all connections, leases and signals.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use parallax_protocol::frame::{self, FrameError, Incoming, MAX_REQUEST};
use parallax_protocol::message::{Request, Response};
use parallax_sys::process::Process;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::answer::{self, REQUEST_TIMEOUT};
use super::workers::{Kind, Outcome, Workers};
use crate::lease::{JobRun, LeaseKey, Leases, Recovered, Refusal};
use crate::metrics::Dropped;

/// Maximum number of connections whose request has not arrived yet; the oldest is dropped for a newer one.
const MAX_RECEIVING: usize = 1024;
/// Maximum number of connections that are accepted in one iteration.
const MAX_ACCEPTED_PER_ITERATION: usize = 64;
/// Number of threads that release the stale remains of an earlier agent. Others must remain for new requests.
const STALE_RELEASE_THREADS: usize = 16;
/// Interval between attempts to accept connections after a failure, such as no free descriptors.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// The tokens of the first events; each connection has two tokens after these.
const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;
const WORKERS: u64 = 2;
const HELPER: u64 = 3;
const FIRST_CONNECTION: u64 = 4;
/// The number of work that no connection waits for.
pub(super) const NO_CONNECTION: u64 = 0;

/// The event loop with all connections.
#[derive(Debug)]
pub struct Server {
    pub(super) epoll: OwnedFd,
    pub(super) listener: Option<UnixListener>,
    pub(super) signals: SignalFd,
    pub(super) leases: &'static Leases,
    pub(super) workers: Workers,
    pub(super) connections: HashMap<u64, Connection>,
    /// The connections whose request has not arrived, oldest first, and by when it must have; some may be further by now.
    pub(super) receiving: VecDeque<(Instant, u64)>,
    pub(super) next: u64,
    /// Until when no connection is accepted.
    pub(super) pause: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Connection {
    /// `None` for a lease of an earlier agent.
    pub(super) stream: Option<Arc<UnixStream>>,
    pub(super) peer: i32,
    pub(super) state: State,
}

#[derive(Debug)]
pub(super) enum State {
    /// The request is on its way.
    Receiving(Incoming),
    /// A worker has the connection.
    Working,
    /// The connection is a lease, for as long as it and the process last.
    Lease(LeaseKey, Process),
    /// No connection: the layers of a job are kept until the process ends.
    Job(JobRun, Process),
}

/// The result of one iteration.
#[derive(Debug, Default)]
pub struct Iteration {
    /// The signals that arrived.
    pub signals: Vec<Signal>,
    /// Number of requests and releases that finished.
    pub finished: usize,
    /// True if the helper has ended, without which no step gets an image.
    pub helper_ended: bool,
}

impl Server {
    /// Makes a server that watches the recovered leases and releases the stale ones. The leases are never dropped: that would
    /// unmount what steps use, and the agent's end must not.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn new(
        listener: UnixListener,
        signals: SignalFd,
        leases: &'static Leases,
        recovered: Recovered,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let workers = Workers::new()?;
        let add = |fd, number| epoll::add(&epoll, fd, epoll::EventData::new_u64(number), epoll::EventFlags::IN);
        add(listener.as_fd(), LISTENER)?;
        add(signals.as_fd(), SIGNALS)?;
        add(workers.as_fd(), WORKERS)?;
        add(leases.helper().as_fd(), HELPER)?;
        let mut server = Self {
            epoll,
            listener: Some(listener),
            signals,
            leases,
            workers,
            connections: HashMap::new(),
            receiving: VecDeque::new(),
            next: FIRST_CONNECTION,
            pause: None,
        };
        for (key, process) in recovered.alive {
            server.watch_without_connection(key, process);
        }
        server.in_background(move || leases.clear_disk());
        for _ in 0..STALE_RELEASE_THREADS {
            let stale = recovered.stale.clone();
            server.in_background(move || leases.release_stale(&stale));
        }
        Ok(server)
    }

    /// The leases.
    #[must_use]
    pub fn leases(&self) -> &'static Leases {
        self.leases
    }

    /// Returns `true` if requests or releases are in progress.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let receiving = |connection: &Connection| matches!(connection.state, State::Receiving(_));
        self.workers.are_busy() || self.connections.values().any(receiving)
    }

    /// Accepts the pending connections and closes the socket. Leases that end from now on are released by the next agent.
    pub fn close(&mut self) {
        if let Some(listener) = self.listener.take() {
            while let Ok(true) = self.accept(&listener) {}
            let _ = epoll::delete(&self.epoll, &listener);
        }
        let held =
            |(&number, connection): (&u64, &Connection)| matches!(connection.state, State::Lease(..)).then_some(number);
        for number in self.connections.iter().filter_map(held).collect::<Vec<_>>() {
            self.close_connection(number);
        }
    }

    /// Runs work in a worker.
    pub fn in_background(&mut self, work: impl FnOnce() + Send + 'static) {
        self.workers.submit(Kind::Other, NO_CONNECTION, move || {
            work();
            Outcome::Done
        });
    }

    /// Waits for events, or until `due`, and handles them.
    ///
    /// # Errors
    /// Those of `epoll_wait(2)`.
    pub fn run_iteration(&mut self, due: Option<Instant>) -> io::Result<Iteration> {
        let own = [self.receiving.front().map(|&(deadline, _)| deadline), self.pause, self.workers.retry()];
        let due = own.into_iter().chain([due]).flatten().min();
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let mut events: Vec<epoll::Event> = Vec::with_capacity(64);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut iteration = Iteration::default();
        for event in events {
            match event.data.u64() {
                LISTENER => self.accept_some(),
                SIGNALS => iteration.signals.extend(self.arrived_signals()),
                HELPER => iteration.helper_ended = true,
                WORKERS => {
                    for finished in self.workers.collect() {
                        iteration.finished += 1;
                        self.finish(finished);
                    }
                }
                // Of two numbers the even one is the connection's.
                number => self.handle_event(number & !1, number & 1 == 1),
            }
        }
        self.drop_slow();
        self.workers.try_again();
        if self.pause.is_some_and(|end| Instant::now() >= end) {
            self.resume();
        }
        Ok(iteration)
    }

    fn arrived_signals(&self) -> Vec<Signal> {
        let mut signals = Vec::new();
        while let Ok(Some(information)) = self.signals.read_signal() {
            let number = i32::try_from(information.ssi_signo).unwrap_or_default();
            signals.extend(Signal::try_from(number).ok());
        }
        signals
    }

    fn accept_some(&mut self) {
        let Some(listener) = self.listener.take() else { return };
        for _ in 0..MAX_ACCEPTED_PER_ITERATION {
            match self.accept(&listener) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::error!("cannot accept connections: {error}");
                    // It would be offered again and again meanwhile.
                    let _ = epoll::delete(&self.epoll, &listener);
                    self.pause = Some(Instant::now() + ACCEPT_RETRY_INTERVAL);
                    break;
                }
            }
        }
        self.listener = Some(listener);
    }

    /// Accepts one connection; `false` if nobody waits.
    fn accept(&mut self, listener: &UnixListener) -> io::Result<bool> {
        let stream = match accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(stream) => UnixStream::from(stream),
            Err(Errno::AGAIN) => return Ok(false),
            // The peer closed the connection before it was accepted.
            Err(Errno::CONNABORTED | Errno::INTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        self.leases.metrics().connected();
        let Ok(peer) = getsockopt(&stream, PeerCredentials) else { return Ok(true) };
        if peer.uid() != 0 {
            self.leases.metrics().dropped(Dropped::NotRoot);
            return Ok(true);
        }
        let number = self.number();
        epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(number), epoll::EventFlags::IN)?;
        let state = State::Receiving(Incoming::new(MAX_REQUEST));
        self.connections.insert(number, Connection { stream: Some(Arc::new(stream)), peer: peer.pid(), state });
        self.receiving.push_back((Instant::now() + REQUEST_TIMEOUT, number));
        // Usually the request has arrived already.
        self.receive(number);
        self.make_room();
        Ok(true)
    }

    fn resume(&mut self) {
        self.pause = None;
        if let Some(listener) = &self.listener {
            let data = epoll::EventData::new_u64(LISTENER);
            if let Err(error) = epoll::add(&self.epoll, listener, data, epoll::EventFlags::IN) {
                tracing::error!("cannot wait for connections: {error}");
                self.pause = Some(Instant::now() + ACCEPT_RETRY_INTERVAL);
            }
        }
    }

    /// Handles an event: a connection is readable or closed, or the process of a lease has ended.
    fn handle_event(&mut self, number: u64, process_ended: bool) {
        match self.connections.get(&number).map(|connection| &connection.state) {
            Some(State::Receiving(_)) => self.receive(number),
            Some(State::Lease(..)) => self.end_lease(number, process_ended),
            Some(State::Job(..)) => self.end_job(number),
            _ => {}
        }
    }

    /// Reads the part of a request that has arrived.
    fn receive(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let (Some(stream), State::Receiving(incoming)) = (&connection.stream, &mut connection.state) else { return };
        let begun = !incoming.is_empty();
        match incoming.read(stream).and_then(|body| body.map(|body| frame::parse(&body)).transpose()) {
            Ok(None) => {}
            Ok(Some(request)) => self.serve(number, request),
            // A client that only checks whether the agent listens.
            Err(FrameError::Closed) if !begun => self.close_connection(number),
            Err(error) => {
                tracing::debug!("connection dropped: {error}");
                self.leases.metrics().dropped(Dropped::Malformed);
                // A client of another release gets an explanation.
                let told = matches!(error, FrameError::Version(_) | FrameError::Malformed(_));
                let stream = self.connections.get(&number).and_then(|connection| connection.stream.as_ref());
                if let (true, Some(stream)) = (told, stream) {
                    let _ = frame::send(stream, &Response::refused(error.to_string()), Instant::now());
                }
                self.close_connection(number);
            }
        }
    }

    /// Hands a request to a worker.
    fn serve(&mut self, number: u64, request: Request) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let Some(stream) = connection.stream.clone() else { return };
        let _ = epoll::delete(&self.epoll, &stream);
        connection.state = State::Working;
        let kind = if matches!(request, Request::Lease(_)) { Kind::Lease } else { Kind::Other };
        if kind == Kind::Lease && self.workers.are_full(kind) {
            let refusal =
                Refusal::busy("the Parallax agent of this node is busy: too many steps start at once; try again");
            let _ = frame::send(&stream, &Response::refused(refusal.message), Instant::now());
            self.leases.metrics().refused(refusal.kind);
            self.connections.remove(&number);
            return;
        }
        let (leases, peer) = (self.leases, connection.peer);
        self.workers.submit(kind, number, move || answer::request(&stream, request, peer, leases));
    }

    fn drop_slow(&mut self) {
        let now = Instant::now();
        while let Some(&(deadline, number)) = self.receiving.front() {
            if self.is_receiving(number) {
                if deadline > now {
                    return;
                }
                self.leases.metrics().dropped(Dropped::Slow);
                self.close_connection(number);
            }
            self.receiving.pop_front();
        }
    }

    fn make_room(&mut self) {
        // Those that are further are many at most as long as it takes to serve them.
        while self.receiving.len() > MAX_RECEIVING {
            let Some((_, number)) = self.receiving.pop_front() else { return };
            if self.is_receiving(number) {
                self.leases.metrics().dropped(Dropped::Crowded);
                self.close_connection(number);
            }
        }
    }

    fn is_receiving(&self, number: u64) -> bool {
        self.connections.get(&number).is_some_and(|connection| matches!(connection.state, State::Receiving(_)))
    }

    /// Closes a connection without releasing its lease.
    fn close_connection(&mut self, number: u64) {
        let Some(Connection { stream, state, .. }) = self.connections.remove(&number) else { return };
        if let Some(stream) = stream {
            let _ = epoll::delete(&self.epoll, &stream);
        }
        if let State::Lease(_, process) = state {
            let _ = epoll::delete(&self.epoll, &process);
        }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next += 2;
        self.next - 2
    }
}
