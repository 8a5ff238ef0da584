//! The idle layer cache: layers stay mounted for a time after their last step (`agent.keep_warm`), because the next step may
//! use them.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A cache of values, here mounted layers, with a time to live after their last use. No thread runs while it is empty.
#[derive(Debug)]
pub struct IdleCache<T> {
    ttl: Mutex<Duration>,
    shared: Arc<Shared<T>>,
}

#[derive(Debug)]
struct Shared<T> {
    kept: Mutex<Entries<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Entries<T> {
    /// The expiry times and the values.
    values: Vec<(Instant, Arc<T>)>,
    /// True if a thread waits to drop expired values.
    watched: bool,
}

impl<T: Send + Sync + 'static> IdleCache<T> {
    /// Makes a cache with a time to live; zero means that nothing is cached.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        let kept = Mutex::new(Entries { values: Vec::new(), watched: false });
        Self { ttl: Mutex::new(ttl), shared: Arc::new(Shared { kept, changed: Condvar::new() }) }
    }

    /// Changes the time to live, also of the cached values where it is shorter.
    pub fn set_ttl(&self, ttl: Duration) {
        *self.ttl.lock().unwrap_or_else(PoisonError::into_inner) = ttl;
        let until = Instant::now() + ttl;
        for (time, _) in &mut self.shared.lock().values {
            *time = until.min(*time);
        }
        self.shared.changed.notify_all();
    }

    /// Caches values that their user is about to drop.
    pub fn keep(&self, values: &[Arc<T>]) {
        let ttl = *self.ttl.lock().unwrap_or_else(PoisonError::into_inner);
        if ttl.is_zero() {
            return;
        }
        let until = Instant::now() + ttl;
        let mut kept = self.shared.lock();
        for value in values {
            match kept.values.iter_mut().find(|(_, known)| Arc::ptr_eq(known, value)) {
                Some((time, _)) => *time = until,
                None => kept.values.push((until, Arc::clone(value))),
            }
        }
        // Their time may come before that of those which are kept already.
        self.shared.changed.notify_all();
        if !kept.watched && !kept.values.is_empty() {
            let shared = Arc::clone(&self.shared);
            match thread::Builder::new().name("idle layers".to_owned()).spawn(move || shared.watch()) {
                Ok(_) => kept.watched = true,
                Err(error) => {
                    tracing::warn!("cannot cache idle layers: no thread: {error}");
                    let values = std::mem::take(&mut kept.values);
                    drop(kept);
                    drop(values);
                }
            }
        }
    }

    /// Drops all cached values at once.
    pub fn clear(&self) {
        let values = std::mem::take(&mut self.shared.lock().values);
        self.shared.changed.notify_all();
        // What this does, unmounting, needs no lock.
        drop(values);
    }
}

impl<T> Drop for IdleCache<T> {
    fn drop(&mut self) {
        self.shared.lock().values.clear();
        self.shared.changed.notify_all();
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Entries<T>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops expired values until the cache is empty.
    fn watch(&self) {
        let mut kept = self.lock();
        loop {
            let now = Instant::now();
            let (expired, rest) = std::mem::take(&mut kept.values).into_iter().partition(|(until, _)| *until <= now);
            kept.values = rest;
            if !expired.is_empty() {
                drop(kept);
                drop::<Vec<(Instant, Arc<T>)>>(expired);
                kept = self.lock();
                continue;
            }
            let Some(next) = kept.values.iter().map(|(until, _)| *until).min() else {
                kept.watched = false;
                return;
            };
            let timeout = next.saturating_duration_since(now);
            kept = self.changed.wait_timeout(kept, timeout).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Tells when it goes.
    struct Layer(Sender<()>);

    impl Drop for Layer {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }

    fn layer() -> (Arc<Layer>, Receiver<()>) {
        let (sender, receiver) = channel();
        (Arc::new(Layer(sender)), receiver)
    }

    const LONG: Duration = Duration::from_secs(3600);
    const TEST_TIMEOUT: Duration = Duration::from_secs(20);

    #[test]
    fn without_a_time_nothing_is_kept() {
        let (layer, gone) = layer();
        IdleCache::new(Duration::ZERO).keep(&[layer]);
        gone.try_recv().unwrap();
    }

    #[test]
    fn what_is_kept_goes_by_itself_and_the_thread_with_it() {
        let cache = IdleCache::new(Duration::from_millis(20));
        for _ in 0..2 {
            let (layer, gone) = layer();
            cache.keep(&[layer]);
            gone.recv_timeout(TEST_TIMEOUT).unwrap();
        }
    }

    #[test]
    fn what_is_used_again_is_kept_from_its_last_use() {
        let cache = IdleCache::new(LONG);
        let (layer, gone) = layer();
        cache.keep(&[Arc::clone(&layer), Arc::clone(&layer)]);
        assert_eq!((cache.shared.lock().values.len(), Arc::strong_count(&layer)), (1, 2));
        drop(layer);
        assert!(gone.try_recv().is_err());
        cache.clear();
        gone.recv_timeout(TEST_TIMEOUT).unwrap();
    }

    #[test]
    fn a_shorter_time_holds_for_what_is_kept_already() {
        let cache = IdleCache::new(LONG);
        let (first, gone) = layer();
        let (second, gone_at_once) = layer();
        cache.keep(&[first]);
        cache.set_ttl(Duration::from_millis(20));
        gone.recv_timeout(TEST_TIMEOUT).unwrap();
        cache.set_ttl(LONG);
        cache.keep(&[second]);
        cache.set_ttl(Duration::ZERO);
        gone_at_once.recv_timeout(TEST_TIMEOUT).unwrap();
    }

    #[test]
    fn what_comes_later_may_go_sooner() {
        let cache = IdleCache::new(LONG);
        let (first, gone_first) = layer();
        let (second, gone) = layer();
        cache.keep(&[first]);
        *cache.ttl.lock().unwrap() = Duration::from_millis(20);
        cache.keep(&[second]);
        gone.recv_timeout(TEST_TIMEOUT).unwrap();
        assert!(gone_first.try_recv().is_err());
    }

    #[test]
    fn all_goes_with_its_keeper() {
        let cache = IdleCache::new(LONG);
        let (layer, gone) = layer();
        cache.keep(&[layer]);
        drop(cache);
        gone.recv_timeout(TEST_TIMEOUT).unwrap();
    }
}
