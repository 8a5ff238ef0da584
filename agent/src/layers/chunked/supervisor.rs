//! The thread that supervises a layer until FUSE is out of its way: it notices a worker that ended or hangs, has another one go on, and
//! exchanges the file.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parallax_format::digest::Sha256;
use parallax_lazy_file::Device;
use parallax_lazy_file::message::{Channel, ChannelError, FromWorker, Layer, ToWorker};
use parallax_sys::loop_device::Reads;
use parallax_sys::shared_slots::SharedSlots;
use rustix::fs::Advice;

use super::arrival::Arrivals;
use super::kept::{Keeping, Part};
use super::overdue::{FURTHER_READS, GRACE, HANG_TIMEOUT, READ_TIMEOUT, Watch, fail_all};
use super::shared::{Shared, Swaps};
use crate::layers::digest::sha256;

/// Interval of the questions whether the worker works.
const PING_INTERVAL: Duration = Duration::from_millis(500);
/// Timeout of the answer to a request to serve, for which the worker fetches the layer's first chunk.
pub(super) const SERVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long another worker is waited for, if the store does not have the layer's whole file.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// All that is needed to have a layer served.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) shared: Arc<Shared>,
    pub(super) socket: PathBuf,
    pub(super) request: Layer,
    pub(super) device: Device,
    pub(super) slots: SharedSlots,
    pub(super) index: File,
    pub(super) trace: Option<File>,
    pub(super) whole: Option<File>,
    pub(super) verify: bool,
    /// How long a read may take that nothing can answer.
    pub(super) timeout: Duration,
    /// What systemd keeps for the next agent.
    pub(super) keeping: Keeping,
    /// When this agent mounted the layer, and where the time is counted until it is complete.
    pub(super) begun: Option<(Instant, Arc<Swaps>)>,
}

/// Why a layer is not served.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The reason, a part of a sentence.
    pub(super) reason: String,
    /// Its kind.
    pub(super) kind: RefusalKind,
}

/// The kind of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RefusalKind {
    /// No answer came in time.
    Silent,
    /// The worker ended before it answered.
    Ended,
    /// There is no worker, or it cannot serve the layer.
    Refused,
}

/// Why a worker is no longer watched.
enum Outcome {
    /// The layer was unmounted, or its file is complete: nothing is to be done any more.
    Done,
    /// The worker ended.
    Lost,
    /// The worker cannot go on for the moment; the reason.
    Stuck(String),
}

impl Supervisor {
    /// Has a worker serve the layer: what an earlier one left is answered first. Its answer is waited for until the timeout.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(super) fn connect(&self, timeout: Duration) -> Result<Arc<Channel>, Refusal> {
        let channel = Channel::connect(&self.socket).map_err(|error| Refusal {
            reason: format!("no parallax-lazy on {}: {error}", self.socket.display()),
            kind: if error.kind() == io::ErrorKind::WouldBlock { RefusalKind::Silent } else { RefusalKind::Refused },
        })?;
        let failed = |error: &dyn fmt::Display, kind| {
            Err(Refusal { reason: format!("parallax-lazy does not serve the layer: {error}"), kind })
        };
        let [trace, whole] = [&self.trace, &self.whole].map(|file| file.as_ref().map(|file| file.as_fd()));
        let request = Layer { has_trace: trace.is_some(), has_whole: whole.is_some(), ..self.request.clone() };
        let needed = [self.device.as_fd(), self.slots.as_fd(), self.index.as_fd()];
        let descriptors: Vec<_> = needed.into_iter().chain(trace).chain(whole).collect();
        if let Err(error) = channel.send(&ToWorker::Serve(request), &descriptors) {
            return failed(&error, RefusalKind::Ended);
        }
        match channel.receive(Some(timeout)) {
            Ok((FromWorker::Serving, _)) => Ok(Arc::new(channel)),
            Ok((FromWorker::Refused { reason }, _)) => failed(&reason, RefusalKind::Refused),
            Ok(_) => failed(&"unexpected answer", RefusalKind::Refused),
            Err(error @ ChannelError::Timeout) => failed(&error, RefusalKind::Silent),
            Err(error @ ChannelError::Closed) => failed(&error, RefusalKind::Ended),
            Err(error) => failed(&error, RefusalKind::Refused),
        }
    }

    /// Has systemd keep the descriptors, for the case that this process and the worker end at the same time.
    pub(super) fn keep(&self) {
        let needed =
            [(Part::Device, self.device.as_fd()), (Part::Slots, self.slots.as_fd()), (Part::Index, self.index.as_fd())];
        let whole = self.whole.as_ref().map(|whole| (Part::Whole, whole.as_fd()));
        for (part, descriptor) in needed.into_iter().chain(whole) {
            if let Err(error) = self.keeping.keep(part, descriptor) {
                tracing::warn!(layer = %self.shared.diff_id(), "systemd does not keep the layer for another agent: {error}");
                return;
            }
        }
    }

    /// Supervises the layer until FUSE is out of its way, or it is unmounted. Without a connection another worker is asked first.
    pub(super) fn run(mut self, mut channel: Option<Arc<Channel>>) {
        let layer = self.shared.diff_id();
        loop {
            let stuck = match channel.as_ref().map_or(Outcome::Lost, |channel| self.watch(channel)) {
                Outcome::Done => return,
                Outcome::Stuck(reason) => reason,
                Outcome::Lost => match self.reconnect() {
                    Ok(next) => {
                        tracing::info!(%layer, "layer served by another worker");
                        self.shared.end_with(&next);
                        channel = Some(next);
                        continue;
                    }
                    Err(_) if self.shared.is_over() => return,
                    Err(reason) => reason,
                },
            };
            if self.use_whole_file(&stuck) {
                return;
            }
        }
    }

    /// Puts the layer's whole file in the place of its chunks. Returns whether nothing more is to be done: that was done, or there is no such
    /// file.
    pub(super) fn use_whole_file(&mut self, stuck: &str) -> bool {
        let Some(whole) = self.whole.take() else {
            // The last descriptor of the file is closed, and readers get errors.
            self.poison(stuck);
            return true;
        };
        let layer = self.shared.diff_id();
        tracing::warn!(%layer, reason = stuck, "the layer's whole file takes the place of its chunks");
        self.rescue(&whole).inspect_err(|reason| self.poison(reason)).is_ok()
    }

    /// Watches a worker.
    fn watch(&self, channel: &Channel) -> Outcome {
        let layer = self.shared.diff_id();
        let stuck = |reason: String| {
            tracing::warn!(%layer, reason, "readers of the layer wait");
            self.whole.as_ref().map(|_| Outcome::Stuck(reason))
        };
        let mut watch = Watch::new(&self.slots);
        loop {
            let outcome = match channel.receive(Some(PING_INTERVAL)) {
                Ok((FromWorker::Complete, file)) => match self.exchange(file) {
                    Ok(()) => Some(Outcome::Done),
                    Err(reason) => {
                        tracing::warn!(%layer, reason, "the layer stays on FUSE");
                        None
                    }
                },
                Ok((FromWorker::Waiting { reason }, _)) => stuck(reason),
                Ok((FromWorker::Failed { reason }, _)) => {
                    self.poison(&reason);
                    stuck(reason)
                }
                // An answer of any kind.
                Ok(_) => {
                    watch.answered();
                    None
                }
                Err(ChannelError::Timeout) => {
                    watch.ask(channel);
                    None
                }
                Err(_) if self.shared.is_over() => Some(Outcome::Done),
                Err(_) => Some(Outcome::Lost),
            };
            if let Some(outcome) = outcome.or_else(|| self.overdue(&mut watch).and_then(stuck)) {
                return outcome;
            }
        }
    }

    /// Looks whether reads are answered in time. Returns the reason why the layer's whole file must take the place of its chunks, or
    /// why readers wait. Reads whose time is over are failed, if the store does not have that file.
    fn overdue(&self, watch: &mut Watch) -> Option<String> {
        let (silence, waited) = (watch.silence(), watch.look(&self.slots));
        let limit = if self.whole.is_some() {
            READ_TIMEOUT.min(self.timeout)
        } else if self.shared.is_poisoned() {
            self.timeout / FURTHER_READS + GRACE
        } else {
            self.timeout + GRACE
        };
        let failed = |result: io::Result<()>| {
            if let Err(error) = result {
                tracing::error!(layer = %self.shared.diff_id(), "cannot fail reads: {error}");
            }
        };
        if waited >= limit {
            let reason = format!("a read has not been answered for {} s", limit.as_secs());
            if self.whole.is_some() {
                return Some(reason);
            }
            self.poison(&reason);
            failed(watch.fail(&self.device, self.request.size, limit));
        }
        if silence >= limit && self.whole.is_none() && !std::mem::replace(&mut watch.fails_all, true) {
            self.poison("parallax-lazy hangs");
            failed(fail_all(&self.device, self.request.size));
        }
        if silence >= HANG_TIMEOUT && !std::mem::replace(&mut watch.is_reported, true) {
            return Some(format!("parallax-lazy has not answered for {} s", HANG_TIMEOUT.as_secs()));
        }
        None
    }

    /// Has another worker serve the layer. Without a whole file the worker's return is waited for.
    fn reconnect(&self) -> Result<Arc<Channel>, String> {
        if self.whole.is_some() {
            return self.connect(SERVE_TIMEOUT).map_err(|refusal| refusal.reason);
        }
        let deadline = Instant::now() + RECONNECT_TIMEOUT;
        let left = || deadline.saturating_duration_since(Instant::now());
        // Before the first attempt, so that none is missed. Where systemd keeps the socket, nothing arrives: it waits for the next worker.
        let arrivals = Arrivals::of(&self.socket);
        loop {
            let Refusal { reason, kind } = match self.connect(left()) {
                Ok(channel) => return Ok(channel),
                Err(refusal) => refusal,
            };
            tracing::warn!(layer = %self.shared.diff_id(), reason, "readers of the layer wait for another worker");
            let may_retry = match (kind, &arrivals) {
                (RefusalKind::Ended, _) => !left().is_zero() && !self.shared.is_over(),
                (RefusalKind::Refused, Ok(arrivals)) => {
                    self.shared.ended().is_some_and(|ended| arrivals.wait(ended, left()))
                }
                (RefusalKind::Silent, _) => false,
                (RefusalKind::Refused, Err(error)) => {
                    return Err(format!("{reason}, and another one cannot be waited for: {error}"));
                }
            };
            if !may_retry {
                return Err(reason);
            }
        }
    }

    /// Puts the complete file below the layer's loop device.
    fn exchange(&self, file: Vec<OwnedFd>) -> Result<(), String> {
        let file: File = file.into_iter().next().ok_or("its file was not passed")?.into();
        self.check(&file)?;
        // The worker may end or hang before it has answered all reads, and nobody watches it meanwhile.
        self.put_below(&file, HANG_TIMEOUT)?;
        tracing::info!(layer = %self.shared.diff_id(), "layer complete, FUSE is out of its way");
        if let Some((begun, swaps)) = &self.begun {
            swaps.count(begun.elapsed());
        }
        if self.shared.reads() == Reads::Direct {
            // Nobody reads by the page cache what the check has left there.
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        }
        Ok(())
    }

    /// Checks that a file has the layer's size and SHA-256.
    pub(super) fn check(&self, file: &File) -> Result<(), String> {
        let failed = |error: io::Error| format!("its file cannot be read: {error}");
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() || metadata.len() != self.request.size {
            return Err("its file is not a regular file of the recorded size".to_owned());
        }
        let found: Sha256 = sha256(file).map_err(failed)?;
        if found != self.request.sha256 {
            return Err(format!("the SHA-256 of its file is {found}, and {} was recorded", self.request.sha256));
        }
        Ok(())
    }

    /// Notes that readers got errors.
    pub(super) fn poison(&self, reason: &str) {
        self.shared.poison();
        self.slots.set_failed();
        tracing::error!(layer = %self.shared.diff_id(), reason, "reading the layer failed; new steps get another mount of it");
    }
}
