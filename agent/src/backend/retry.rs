//! When what the node can do is tried again.
//!
//! A trial that was cut short decides nothing, and what failed may work by now: a module was loaded, a limit raised, a program
//! installed. So a step for which there is no way has the node tried again before it is refused. A step that has a way only
//! because a better one is undecided does not wait; the node is tried beside it. Trials are made one at a time, never for more than
//! half of the time, and by no clock: without a step nothing is tried.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use parallax_store::open::TrustedStore;

use super::choice::{Backend, Backends};
use crate::helper::Helper;

/// Minimum time between two trials that no step waits for.
const BACKGROUND_INTERVAL: Duration = Duration::from_secs(60);

/// The ladder that holds now, and the trials that change it.
#[derive(Debug, Clone)]
pub struct Retry(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    helper: Arc<Helper>,
    ladder: RwLock<Arc<Backends>>,
    /// The last trial: its end, and how long it took.
    last: Mutex<(Instant, Duration)>,
}

impl Retry {
    /// Begins with what was found at the start of the agent.
    #[must_use]
    pub fn new(ladder: Backends, helper: Arc<Helper>) -> Self {
        let last = Mutex::new((Instant::now(), Duration::ZERO));
        Self(Arc::new(Shared { helper, ladder: RwLock::new(Arc::new(ladder)), last }))
    }

    /// The ladder that holds now.
    #[must_use]
    pub fn ladder(&self) -> Arc<Backends> {
        Arc::clone(&self.0.ladder.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the ladder.
    pub fn change(&self, change: impl FnOnce(&Backends) -> Backends) {
        let mut ladder = self.0.ladder.write().unwrap_or_else(PoisonError::into_inner);
        *ladder = Arc::new(change(&ladder));
    }

    /// The way for images of a store. Where there is none, the node is tried again first.
    ///
    /// # Errors
    /// Why there is none: a part of a sentence.
    pub fn way(&self, store: &TrustedStore) -> Result<Backend, String> {
        let ladder = self.ladder();
        match ladder.way(store) {
            Ok(way) => {
                if ladder.is_in_doubt(store) {
                    self.try_beside();
                }
                Ok(way)
            }
            Err(reason) if !ladder.could_change(store) => Err(reason),
            Err(_) => {
                self.try_again(&ladder);
                self.ladder().way(store)
            }
        }
    }

    /// Tries again what the node can do, unless somebody did since `seen` was the ladder. Waits for a trial that is under way.
    fn try_again(&self, seen: &Arc<Backends>) {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (end, took) = *last;
        if Arc::ptr_eq(seen, &self.ladder()) && end.elapsed() >= took {
            *last = self.try_now();
        }
    }

    /// The same without waiting, if it is long enough ago.
    fn try_beside(&self) {
        let is_due = |last: &(Instant, Duration)| last.0.elapsed() >= BACKGROUND_INTERVAL.max(last.1);
        if !self.0.last.try_lock().is_ok_and(|last| is_due(&last)) {
            return;
        }
        let this = self.clone();
        let body = move || {
            let mut last = this.0.last.lock().unwrap_or_else(PoisonError::into_inner);
            if is_due(&last) {
                *last = this.try_now();
            }
        };
        // Without a thread another step has it tried.
        let _ = thread::Builder::new().name("trial".to_owned()).stack_size(256 * 1024).spawn(body);
    }

    fn try_now(&self) -> (Instant, Duration) {
        let begin = Instant::now();
        match self.0.helper.probe() {
            Ok(findings) => {
                self.change(|ladder| ladder.updated(findings));
                self.ladder().log();
            }
            Err(error) => tracing::warn!("this node could not be tried again: {error}"),
        }
        (Instant::now(), begin.elapsed())
    }
}
