//! A limit of bytes a second, for all who share it.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The limit.
#[derive(Debug)]
pub(crate) struct Limit {
    /// Bytes a second.
    rate: f64,
    /// When the way is free again.
    free: Mutex<Instant>,
}

impl Limit {
    /// So many bytes a second.
    pub(crate) fn new(rate: f64) -> Self {
        Self { rate, free: Mutex::new(Instant::now()) }
    }

    /// Waits until so many bytes have gone through.
    #[expect(clippy::cast_precision_loss, reason = "a piece is small")]
    pub(crate) fn wait(&self, bytes: usize) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        *free = (*free).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / self.rate);
        let until = *free;
        drop(free);
        thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_share_it_wait_for_each_other() {
        let (limit, begun) = (Limit::new(1e6), Instant::now());
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| limit.wait(5_000));
            }
        });
        assert!(begun.elapsed() >= Duration::from_millis(20), "{:?}", begun.elapsed());
    }
}
