//! Retries of the trials of the node's abilities.
//!
//! A trial that was cut short decides nothing, and what failed may work by now: a module was loaded, a limit raised, a program
//! installed. So a step without a backend causes a new trial before it is refused. A step that uses the fallback only
//! because the first backend is undecided, or whole files instead of chunks, does not wait; the node is tried in the background. Trials are made one at a time, never for more than
//! half of the time, and by no clock: without a step nothing is tried.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use parallax_format::LayerFormat;
use parallax_format::record::ImageRecord;
use parallax_probe::Ability;
use parallax_store::read::TrustedStore;

use super::choice::{Backends, Chosen};
use crate::helper::Helper;

/// Minimum time between two trials that no step waits for.
const BACKGROUND_INTERVAL: Duration = Duration::from_secs(60);

/// The backends in effect, and the trials that change them.
#[derive(Debug, Clone)]
pub struct Retry(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    helper: Arc<Helper>,
    backends: RwLock<Arc<Backends>>,
    /// The last trial: its end, and how long it took.
    last: Mutex<(Instant, Duration)>,
}

impl Retry {
    /// Makes the retries, with the backends found at the start of the agent.
    #[must_use]
    pub fn new(backends: Backends, helper: Arc<Helper>) -> Self {
        let last = Mutex::new((Instant::now(), Duration::ZERO));
        Self(Arc::new(Shared { helper, backends: RwLock::new(Arc::new(backends)), last }))
    }

    /// Returns the backends in effect.
    #[must_use]
    pub fn backends(&self) -> Arc<Backends> {
        Arc::clone(&self.0.backends.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the backends.
    pub fn change(&self, change: impl FnOnce(&Backends) -> Backends) {
        let mut backends = self.0.backends.write().unwrap_or_else(PoisonError::into_inner);
        *backends = Arc::new(change(&backends));
    }

    /// Returns the backend for an image of a store. Without one, the node is tried again first.
    ///
    /// # Errors
    /// The reason, a part of a sentence.
    pub fn backend(&self, store: &TrustedStore, image: &ImageRecord) -> Result<Chosen, String> {
        let needs_erofs = image.layers.iter().any(|layer| layer.format == LayerFormat::Erofs);
        let needs = needs_erofs.then_some(Ability::Erofs);
        let backends = self.backends();
        match backends.backend(store, needs) {
            Ok(chosen) => {
                if backends.is_in_doubt(store) {
                    self.try_beside();
                }
                Ok(chosen)
            }
            Err(reason) if !backends.could_change(store) => Err(reason),
            Err(_) => {
                self.try_again(&backends);
                self.backends().backend(store, needs)
            }
        }
    }

    /// Returns the backend for an image of a store after another trial.
    ///
    /// # Errors
    /// The reason, a part of a sentence.
    pub fn backend_again(&self, store: &TrustedStore, image: &ImageRecord) -> Result<Chosen, String> {
        self.try_again(&self.backends());
        self.backend(store, image)
    }

    /// Returns the backend for a directory that a user names. Without one, the node is tried again first.
    ///
    /// # Errors
    /// The reason, a part of a sentence.
    pub fn directory(&self, path: &Path) -> Result<Chosen, String> {
        let backends = self.backends();
        backends.directory(path).or_else(|_| {
            self.try_again(&backends);
            self.backends().directory(path)
        })
    }

    /// Tries the node's abilities again, unless another step did since `seen` was read. Waits for a trial in progress.
    fn try_again(&self, seen: &Arc<Backends>) {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (end, took) = *last;
        if Arc::ptr_eq(seen, &self.backends()) && end.elapsed() >= took {
            *last = self.try_now();
        }
    }

    /// Tries again in a thread, if layers are to be mounted from their chunks since a reload, and that was not tried.
    pub fn try_after_reload(&self) {
        if self.backends().lacks_lazy_trial() {
            self.in_thread(|_| true);
        }
    }

    /// Tries again in a thread, if the last trial is long enough ago.
    fn try_beside(&self) {
        let is_due = |last: &(Instant, Duration)| last.0.elapsed() >= BACKGROUND_INTERVAL.max(last.1);
        if self.0.last.try_lock().is_ok_and(|last| is_due(&last)) {
            self.in_thread(is_due);
        }
    }

    /// Tries again in a thread, if that is due then.
    fn in_thread(&self, is_due: fn(&(Instant, Duration)) -> bool) {
        let this = self.clone();
        let body = move || {
            let mut last = this.0.last.lock().unwrap_or_else(PoisonError::into_inner);
            if is_due(&last) {
                *last = this.try_now();
            }
        };
        // Without a thread a later step tries again.
        let _ = thread::Builder::new().name("trial".to_owned()).stack_size(256 * 1024).spawn(body);
    }

    fn try_now(&self) -> (Instant, Duration) {
        let begin = Instant::now();
        match self.0.helper.probe() {
            Ok(findings) => {
                self.change(|backends| backends.updated(findings));
                self.backends().log();
            }
            Err(error) => tracing::warn!("cannot try the node's abilities again: {error}"),
        }
        (Instant::now(), begin.elapsed())
    }
}
