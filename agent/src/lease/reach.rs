//! Look-ups in stores and repositories that may not be reachable: they end in time, and what follows is the site's choice
//! (`step.on_unreachable`).
//!
//! A look-up waits in the kernel for a file system that does not respond, and nobody can end it. So it has a thread of its own, which is
//! left behind; it ends when the file system responds or is unmounted. At most [`MAX_LOOKUPS`] do so at once.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use parallax_config::{OnUnreachable, Step};
use parallax_file_system::FileSystem;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::refusal::{Refusal, refused};

/// Maximum number of look-ups at once, those included that wait for a file system.
const MAX_LOOKUPS: usize = 320;
/// Interval between attempts while a store is missing and no mount has changed: an automount, or a server that is back, changes none.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The look-ups in progress.
static LOOKUPS: AtomicUsize = AtomicUsize::new(0);

/// Why a look-up has no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// No image is provided.
    Refused(Refusal),
    /// A store or a repository is not there, or does not respond; a part of a sentence that names it.
    Unreachable(String),
}

/// The directory that a look-up is at.
#[derive(Debug, Default, Clone)]
pub(super) struct Place(Arc<Mutex<PathBuf>>);

impl Place {
    /// Notes the directory.
    pub(super) fn is(&self, path: &Path) {
        path.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn shown(&self) -> String {
        let path = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Without a look at the file system, which would wait, too.
        match FileSystem::mounted_above(&path) {
            Some(found) => format!("{} ({found})", path.display()),
            None => path.display().to_string(),
        }
    }
}

/// The time that a look-up has, and whether it is repeated as long as a store is missing.
pub(super) fn time(step: &Step) -> (Duration, bool) {
    match step.on_unreachable {
        // The rest is for the layers, and for the answer.
        OnUnreachable::Error => (step.start_deadline() * 3 / 4, false),
        // The rest is for the pull.
        OnUnreachable::Pull => (step.start_deadline() / 4, false),
        OnUnreachable::Wait(seconds) => (Duration::from_secs(seconds.into()), true),
    }
}

/// Runs `search`, repeated if `again` says so, and returns its result in time.
pub(super) fn in_time<T: Send + 'static>(
    (limit, again): (Duration, bool),
    search: impl Fn(&Place) -> Result<T, Failure> + Clone + Send + 'static,
) -> Result<T, Failure> {
    let deadline = Instant::now() + limit;
    let mut last: Option<String> = None;
    loop {
        let is_short = deadline.saturating_duration_since(Instant::now()) < RETRY_INTERVAL;
        let reason = match attempt(deadline, search.clone()) {
            Err(Failure::Unreachable(reason)) => reason,
            result => return result,
        };
        if !again {
            return Err(Failure::Unreachable(reason));
        }
        // An attempt without time says nothing about the store.
        let reason = last.clone().filter(|_| is_short).unwrap_or(reason);
        if Instant::now() >= deadline {
            return Err(Failure::Unreachable(format!("{reason} (waited {} s)", limit.as_secs())));
        }
        if last.is_none() {
            tracing::info!(reason, "waiting for a store");
        }
        last = Some(reason);
        wait_for_mounts(deadline);
    }
}

fn attempt<T: Send + 'static>(
    deadline: Instant,
    search: impl Fn(&Place) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let lookup = Lookup::begin()?;
    let (sender, receiver) = mpsc::sync_channel(1);
    let place = Place::default();
    let at = place.clone();
    let body = move || {
        let _lookup = lookup;
        let _ = sender.send(search(&at));
    };
    thread::Builder::new()
        .name("look-up".to_owned())
        .spawn(body)
        .map_err(|error| Failure::Refused(refused(&format!("cannot start a thread: {error}"))))?;
    let left = deadline.saturating_duration_since(Instant::now());
    receiver
        .recv_timeout(left)
        .unwrap_or_else(|_| Err(Failure::Unreachable(format!("{} does not respond", place.shown()))))
}

/// A look-up in progress.
struct Lookup;

impl Lookup {
    fn begin() -> Result<Self, Failure> {
        if LOOKUPS.fetch_add(1, Ordering::Relaxed) < MAX_LOOKUPS {
            return Ok(Self);
        }
        LOOKUPS.fetch_sub(1, Ordering::Relaxed);
        Err(Failure::Unreachable(format!("{MAX_LOOKUPS} look-ups wait for stores that do not respond")))
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        LOOKUPS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits until a mount was made or removed on this node (`proc_pid_mountinfo(5)`), but not for longer than [`RETRY_INTERVAL`].
fn wait_for_mounts(deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now()).min(RETRY_INTERVAL);
    let timeout = Timespec::try_from(left).ok();
    let mounts = File::open("/proc/self/mountinfo").ok();
    let mut events: Vec<PollFd<'_>> = mounts.iter().map(|mounts| PollFd::new(mounts, PollFlags::PRI)).collect();
    let _ = poll(&mut events, timeout.as_ref());
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(60);

    fn reason<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
        match result {
            Err(Failure::Unreachable(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_look_up_that_hangs_is_left_and_its_place_is_named() {
        let (go, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let hangs = move |place: &Place| {
            place.is(Path::new("/nonexistent/store"));
            let _ = wait.lock().unwrap_or_else(PoisonError::into_inner).recv();
            Ok(())
        };
        let reason = reason(in_time((SHORT, false), hangs));
        assert!(reason.starts_with("/nonexistent/store (") && reason.ends_with("does not respond"), "{reason}");
        drop(go);
        assert_eq!(in_time((LONG, false), |_| Ok(7)).unwrap(), 7);
    }

    #[test]
    fn a_store_that_is_missing_is_waited_for() {
        let attempts = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&attempts);
        let there = move |_: &Place| match counted.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => Err(Failure::Unreachable("/s is missing".to_owned())),
            _ => Ok(()),
        };
        assert_eq!(reason(in_time((LONG, false), there.clone())), "/s is missing");
        in_time((LONG, true), there).unwrap();
        assert_eq!(attempts.load(Ordering::SeqCst), 3);
        let never = |_: &Place| Err::<(), _>(Failure::Unreachable("/s is missing".to_owned()));
        assert_eq!(reason(in_time((SHORT, true), never)), "/s is missing (waited 0 s)");
        // The second attempt has no time, whatever it would find.
        let (go, wait) = mpsc::channel::<()>();
        let (wait, first) = (Arc::new(Mutex::new(wait)), Arc::new(AtomicUsize::new(0)));
        let hangs = move |_: &Place| {
            if first.fetch_add(1, Ordering::SeqCst) > 0 {
                let _ = wait.lock().unwrap_or_else(PoisonError::into_inner).recv();
            }
            Err::<(), _>(Failure::Unreachable("/s is missing".to_owned()))
        };
        assert_eq!(reason(in_time((SHORT, true), hangs)), "/s is missing (waited 0 s)");
        drop(go);
    }
}
