//! Connections that are leases.

use std::os::fd::AsFd as _;

use parallax_protocol::message::StepId;
use parallax_sys::process::Process;
use rustix::event::epoll;

use super::answer;
use super::event_loop::{Connection, NO_CONNECTION, Server, State};
use super::workers::{Finished, Kind, Outcome};
use crate::lease::{Cause, JobRun, LeaseKey};

impl Server {
    /// Handles the outcome of a worker.
    pub(super) fn finish(&mut self, finished: Finished) {
        match finished.outcome {
            Outcome::Done => drop(self.connections.remove(&finished.number)),
            Outcome::Lease(key, process, container) => {
                let step = key.step;
                self.watch_lease(finished.number, key, process);
                self.keep_layers(step);
                if let Some((key, owner)) = container {
                    self.watch_without_connection(key, owner);
                }
            }
            Outcome::Job(run, process) => self.watch_job(run, process),
            Outcome::Container(key, owner) => {
                self.connections.remove(&finished.number);
                self.watch_without_connection(key, owner);
            }
            Outcome::LeaseWithoutConnection(key, process) => {
                if let Some(connection) = self.connections.get_mut(&finished.number) {
                    connection.stream = None;
                }
                self.watch_lease(finished.number, key, process);
            }
        }
    }

    /// Watches the process of a lease that has no connection.
    pub(super) fn watch_without_connection(&mut self, key: LeaseKey, process: Process) {
        let number = self.number();
        self.connections.insert(number, Connection { stream: None, peer: 0, state: State::Working });
        self.watch_lease(number, key, process);
    }

    /// Watches the connection and the process of a lease.
    pub(super) fn watch_lease(&mut self, number: u64, key: LeaseKey, process: Process) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let add = |fd, number| epoll::add(&self.epoll, fd, epoll::EventData::new_u64(number), epoll::EventFlags::IN);
        let watched = add(process.as_fd(), number | 1)
            .and_then(|()| connection.stream.as_ref().map_or(Ok(()), |stream| add(stream.as_fd(), number)));
        connection.state = State::Lease(key, process);
        if let Err(error) = watched {
            tracing::error!("cannot watch a lease, so it is released: {error}");
            self.end_unwatched(number);
        }
    }

    /// Has a step's layers stay mounted until its job ends. In a worker: the search for the process that tells takes a while on a node
    /// with many processes, and nobody waits for it.
    fn keep_layers(&mut self, step: StepId) {
        let leases = self.leases;
        if !leases.config().agent.keep_for_job {
            return;
        }
        self.workers.submit(Kind::Other, NO_CONNECTION, move || match leases.keep_for_job(step) {
            Some((run, process)) => Outcome::Job(run, process),
            None => Outcome::Done,
        });
    }

    fn watch_job(&mut self, run: JobRun, process: Process) {
        let number = self.number();
        let data = epoll::EventData::new_u64(number | 1);
        let watched = epoll::add(&self.epoll, process.as_fd(), data, epoll::EventFlags::IN);
        self.connections.insert(number, Connection { stream: None, peer: 0, state: State::Job(run, process) });
        if let Err(error) = watched {
            tracing::error!(job = run.job, "cannot watch a job, so its layers are not kept: {error}");
            self.end_job(number);
        }
    }

    /// Gives up, in a worker, the layers of a job that has ended.
    pub(super) fn end_job(&mut self, number: u64) {
        let Some(Connection { state: State::Job(run, process), .. }) = self.connections.remove(&number) else { return };
        let _ = epoll::delete(&self.epoll, &process);
        let leases = self.leases;
        self.workers.submit(Kind::Other, NO_CONNECTION, move || {
            leases.release_job_layers(run);
            Outcome::Done
        });
    }

    /// Releases a lease, in a worker, whose end cannot be detected.
    fn end_unwatched(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let State::Lease(key, process) = std::mem::replace(&mut connection.state, State::Working) else { return };
        let _ = epoll::delete(&self.epoll, &process);
        let leases = self.leases;
        self.workers.submit(Kind::Other, number, move || {
            leases.release(&key, Cause::Connection);
            Outcome::Done
        });
    }

    /// Handles, in a worker, a lease whose connection is readable or closed, or whose process has ended.
    pub(super) fn end_lease(&mut self, number: u64, process_ended: bool) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let State::Lease(key, process) = std::mem::replace(&mut connection.state, State::Working) else { return };
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
