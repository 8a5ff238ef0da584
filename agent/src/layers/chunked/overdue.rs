//! Reads that are not answered. Whoever waits for one cannot be ended meanwhile, and Slurm drains a node on which a process does not end
//! (`UnkillableStepTimeout`), so each read has a deadline, whatever the worker and the chunk stores do.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use parallax_lazy_file::message::{Channel, ToWorker};
use parallax_lazy_file::{Content, Device};
use parallax_sys::shared_slots::{HEAD, SharedSlots};

/// A worker that has not answered for so long hangs.
pub(super) const HANG_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a read may take, if the store has the layer's whole file.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// How much later than the worker, which fails reads too, the agent fails one.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// Which part of the time a read has after another one has failed: a process that is to end may make several in a row, which the kernel
/// does not interrupt.
pub(super) const FURTHER_READS: u32 = 4;

/// A file that cannot be read.
struct Nothing(u64);

impl Content for Nothing {
    fn size(&self) -> u64 {
        self.0
    }

    fn read(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::TimedOut.into())
    }
}

/// What is known of a worker that is watched.
#[derive(Debug)]
pub(super) struct Watch {
    /// When the question was asked that it has not answered.
    asked: Option<Instant>,
    /// Whether it was reported that it hangs.
    pub(super) is_reported: bool,
    /// Whether all further reads are failed.
    pub(super) fails_all: bool,
    requests: Vec<Seen>,
}

/// The content of a slot.
#[derive(Debug, Clone, Copy)]
struct Seen {
    head: [u64; HEAD],
    since: Instant,
    /// Whether the agent has failed it.
    is_failed: bool,
}

impl Watch {
    /// Begins with a worker that has just answered.
    pub(super) fn new(slots: &SharedSlots) -> Self {
        let empty = Seen { head: [0; HEAD], since: Instant::now(), is_failed: false };
        Self { asked: None, is_reported: false, fails_all: false, requests: vec![empty; slots.count()] }
    }

    /// Asks whether the worker works, unless it has not answered yet.
    pub(super) fn ask(&mut self, channel: &Channel) {
        if self.asked.is_none() {
            self.asked = channel.send(&ToWorker::Ping, &[]).is_ok().then(Instant::now);
        }
    }

    /// Notes an answer.
    pub(super) fn answered(&mut self) {
        self.asked = None;
        self.is_reported = false;
    }

    /// Returns for how long the worker has not answered.
    pub(super) fn silence(&self) -> Duration {
        self.asked.map(|asked| asked.elapsed()).unwrap_or_default()
    }

    /// Looks at the slots. Returns for how long the oldest request is there that nobody has answered.
    pub(super) fn look(&mut self, slots: &SharedSlots) -> Duration {
        for (number, seen) in self.requests.iter_mut().enumerate() {
            let head = slots.head(number);
            if head != seen.head {
                *seen = Seen { head, since: Instant::now(), is_failed: false };
            }
        }
        let waiting = self.requests.iter().filter(|seen| seen.head != [0; HEAD] && !seen.is_failed);
        waiting.map(|seen| seen.since.elapsed()).max().unwrap_or_default()
    }

    /// Fails the requests that are as old as this.
    pub(super) fn fail(&mut self, device: &Device, size: u64, age: Duration) -> io::Result<()> {
        for seen in self.requests.iter_mut().filter(|seen| seen.head != [0; HEAD] && seen.since.elapsed() >= age) {
            if !std::mem::replace(&mut seen.is_failed, true) {
                let bytes: Vec<u8> = seen.head.iter().flat_map(|word| word.to_ne_bytes()).collect();
                device.serve_request(&bytes, &Nothing(size), &mut Vec::new())?;
            }
        }
        Ok(())
    }
}

/// Fails all reads from now on that the worker does not take.
pub(super) fn fail_all(device: &Device, size: u64) -> io::Result<()> {
    let device = device.try_clone()?;
    let thread = thread::Builder::new().name("lazy layer".to_owned());
    thread.spawn(move || device.serve_without_slot(&Nothing(size))).map(drop)
}
