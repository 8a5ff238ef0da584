//! Connections that are leases.

use std::os::fd::AsFd as _;

use parallax_sys::process::Process;
use rustix::event::epoll;

use super::answer;
use super::event_loop::{Server, State};
use super::workers::{Finished, Kind, Outcome};
use crate::lease::{Cause, LeaseKey};

impl Server {
    /// A worker is done with a connection.
    pub(super) fn finish(&mut self, finished: Finished) {
        match finished.outcome {
            Outcome::Over => drop(self.connections.remove(&finished.number)),
            Outcome::Holds(key, process) => self.hold(finished.number, key, process),
            Outcome::HoldsAlone(key, process) => {
                if let Some(connection) = self.connections.get_mut(&finished.number) {
                    connection.stream = None;
                }
                self.hold(finished.number, key, process);
            }
        }
    }

    /// Watches over a lease.
    pub(super) fn hold(&mut self, number: u64, key: LeaseKey, process: Process) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let add = |fd, number| epoll::add(&self.epoll, fd, epoll::EventData::new_u64(number), epoll::EventFlags::IN);
        let watched = add(process.as_fd(), number | 1)
            .and_then(|()| connection.stream.as_ref().map_or(Ok(()), |stream| add(stream.as_fd(), number)));
        connection.state = State::Held(key, process);
        if let Err(error) = watched {
            tracing::error!("a lease can't be watched over, so it ends: {error}");
            self.end_unwatched(number);
        }
    }

    /// Has a worker release a lease whose end nobody would notice.
    fn end_unwatched(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let State::Held(key, process) = std::mem::replace(&mut connection.state, State::Working) else { return };
        let _ = epoll::delete(&self.epoll, &process);
        let leases = self.leases;
        self.workers.submit(Kind::Other, number, move || {
            leases.release(&key, Cause::Connection);
            Outcome::Over
        });
    }

    /// Has a worker see to a lease whose connection has something to say or is closed, or whose process has ended.
    pub(super) fn end_lease(&mut self, number: u64, process_ended: bool) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let State::Held(key, process) = std::mem::replace(&mut connection.state, State::Working) else { return };
        let _ = epoll::delete(&self.epoll, &process);
        let stream = connection.stream.clone();
        if let Some(stream) = &stream {
            let _ = epoll::delete(&self.epoll, stream);
        }
        let cause = if process_ended { Cause::Process } else { Cause::Connection };
        let leases = self.leases;
        self.workers.submit(Kind::Other, number, move || answer::end(stream.as_deref(), key, process, cause, leases));
    }
}
