//! Worker threads, one for each request that takes time.
//!
//! There are two kinds, so that requests for leases, which may hang where a store does, take no thread from releases.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use parallax_sys::process::Process;
use rustix::event::{EventfdFlags, eventfd};

use crate::lease::{JobRun, LeaseKey};

/// Maximum number of leases that are granted at once.
const MAX_LEASES: usize = 256;
/// Maximum number of other requests that are handled at once; more wait.
const MAX_OTHERS: usize = 64;
/// The stack of a thread, in bytes.
const STACK: usize = 512 * 1024;
/// Interval between attempts to start a thread.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// The kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Grants a lease.
    Lease,
    /// Anything else.
    Other,
}

/// The outcome for the connection.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The connection is done and is closed.
    Done,
    /// The connection is a lease. For it a container was made that is a lease, too, with an owner of its own.
    Lease(LeaseKey, Process, Option<(LeaseKey, Process)>),
    /// The connection is done, and a container was made.
    Container(LeaseKey, Process),
    /// There is no connection, and the layers of a job are kept until the process ends.
    Job(JobRun, Process),
    /// The connection is unusable, and its lease lasts as long as the process.
    LeaseWithoutConnection(LeaseKey, Process),
}

/// A worker that is done.
#[derive(Debug)]
pub(super) struct Finished {
    kind: Kind,
    /// The connection's number.
    pub number: u64,
    /// The outcome.
    pub outcome: Outcome,
}

type Work = Box<dyn FnOnce() -> Outcome + Send>;

/// The threads of one kind, and what waits for one.
#[derive(Default)]
struct Pool {
    running: usize,
    waiting: VecDeque<(u64, Work)>,
}

/// The completion queue, and a descriptor that is readable while the queue is not empty.
#[derive(Debug)]
struct CompletionQueue {
    finished: Mutex<Vec<Finished>>,
    signal: OwnedFd,
}

/// All workers.
pub(super) struct Workers {
    queue: Arc<CompletionQueue>,
    leases: Pool,
    others: Pool,
    retry: Option<Instant>,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("leases", &self.leases.running).field("others", &self.others.running).finish()
    }
}

impl Workers {
    /// Makes a pool without threads.
    ///
    /// # Errors
    /// Those of the system calls.
    pub(super) fn new() -> io::Result<Self> {
        let signal = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let queue = Arc::new(CompletionQueue { finished: Mutex::default(), signal });
        Ok(Self { queue, leases: Pool::default(), others: Pool::default(), retry: None })
    }

    /// Runs work for a connection as soon as a thread is available.
    pub(super) fn submit(&mut self, kind: Kind, number: u64, work: impl FnOnce() -> Outcome + Send + 'static) {
        self.pool(kind).waiting.push_back((number, Box::new(work)));
        self.start(kind);
    }

    /// Returns the workers that finished since the last call.
    pub(super) fn collect(&mut self) -> Vec<Finished> {
        let _ = rustix::io::read(&self.queue.signal, &mut [0; 8]);
        let finished = std::mem::take(&mut *self.queue.finished.lock().unwrap_or_else(PoisonError::into_inner));
        for done in &finished {
            self.pool(done.kind).running -= 1;
        }
        for kind in [Kind::Other, Kind::Lease] {
            self.start(kind);
        }
        finished
    }

    /// Returns `true` if work is running or waiting.
    #[must_use]
    pub(super) fn are_busy(&self) -> bool {
        [&self.leases, &self.others].into_iter().any(|pool| pool.running > 0 || !pool.waiting.is_empty())
    }

    /// Returns `true` if new work of this kind would have to wait.
    #[must_use]
    pub(super) fn are_full(&self, kind: Kind) -> bool {
        match kind {
            Kind::Lease => self.leases.running >= MAX_LEASES,
            Kind::Other => self.others.running >= MAX_OTHERS,
        }
    }

    /// Returns the time for [`Workers::try_again`].
    #[must_use]
    pub(super) fn retry(&self) -> Option<Instant> {
        self.retry
    }

    /// Retries to start threads.
    pub(super) fn try_again(&mut self) {
        if self.retry.is_some_and(|due| Instant::now() >= due) {
            self.retry = None;
            for kind in [Kind::Other, Kind::Lease] {
                self.start(kind);
            }
        }
    }

    fn pool(&mut self, kind: Kind) -> &mut Pool {
        match kind {
            Kind::Lease => &mut self.leases,
            Kind::Other => &mut self.others,
        }
    }

    fn start(&mut self, kind: Kind) {
        while !self.are_full(kind) {
            let Some((number, work)) = self.pool(kind).waiting.pop_front() else { return };
            // The work must survive a failure to start the thread.
            let place = Arc::new(Mutex::new(Some(work)));
            match self.spawn(kind, number, Arc::clone(&place)) {
                Ok(()) => self.pool(kind).running += 1,
                Err(error) => {
                    tracing::error!("cannot start a thread: {error}");
                    if let Some(work) = place.lock().unwrap_or_else(PoisonError::into_inner).take() {
                        self.pool(kind).waiting.push_front((number, work));
                    }
                    self.retry = Some(Instant::now() + RETRY_INTERVAL);
                    return;
                }
            }
        }
    }

    fn spawn(&self, kind: Kind, number: u64, place: Arc<Mutex<Option<Work>>>) -> io::Result<()> {
        let queue = Arc::clone(&self.queue);
        let body = move || {
            let work = place.lock().unwrap_or_else(PoisonError::into_inner).take();
            // The panic hook has reported the panic already.
            let outcome = work.and_then(|work| catch_unwind(AssertUnwindSafe(work)).ok()).unwrap_or(Outcome::Done);
            queue.finished.lock().unwrap_or_else(PoisonError::into_inner).push(Finished { kind, number, outcome });
            // It fails only if the counter is full, and then the descriptor is readable.
            let _ = rustix::io::write(&queue.signal, &1_u64.to_ne_bytes());
        };
        thread::Builder::new().name("worker".to_owned()).stack_size(STACK).spawn(body).map(drop)
    }
}

impl AsFd for Workers {
    /// Readable when [`Workers::collect`] has something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.signal.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn collect(workers: &mut Workers) -> Vec<Finished> {
        poll(&mut [PollFd::new(workers, PollFlags::IN)], None).unwrap();
        workers.collect()
    }

    #[test]
    fn what_is_too_much_waits_and_leases_keep_nothing_else_waiting() {
        let mut workers = Workers::new().unwrap();
        let (release, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        for number in 0..MAX_LEASES as u64 + 5 {
            let wait = Arc::clone(&wait);
            workers.submit(Kind::Lease, number, move || {
                let _ = wait.lock().unwrap_or_else(PoisonError::into_inner).recv();
                Outcome::Done
            });
        }
        assert!(workers.are_full(Kind::Lease) && workers.leases.waiting.len() == 5);
        workers.submit(Kind::Other, 9999, || Outcome::Done);
        assert_eq!(collect(&mut workers)[0].number, 9999);
        drop(release);
        let mut done = 0;
        while workers.are_busy() {
            done += collect(&mut workers).len();
        }
        assert_eq!(done, MAX_LEASES + 5);
    }

    #[test]
    fn a_panic_ends_a_worker_and_nothing_else() {
        let mut workers = Workers::new().unwrap();
        workers.submit(Kind::Other, 1, || panic!("as the test wants it"));
        assert!(matches!(collect(&mut workers)[0].outcome, Outcome::Done));
        assert!(!workers.are_busy());
    }
}
