//! Resources shared by the sources of one call: permits to convert, and common layers.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Semaphore that limits concurrent work.
#[derive(Debug)]
pub(super) struct Slots {
    free: Mutex<usize>,
    freed: Condvar,
}

/// A permit, released when dropped.
#[derive(Debug)]
pub(super) struct Slot<'a>(&'a Slots);

impl Slots {
    /// Returns a semaphore with `count` permits.
    pub(super) fn new(count: usize) -> Self {
        Self { free: Mutex::new(count), freed: Condvar::new() }
    }

    /// Waits for a permit.
    pub(super) fn take(&self) -> Slot<'_> {
        let free = lock(&self.free);
        let mut free = self.freed.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Slot(self)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *lock(&self.0.free) += 1;
        self.0.freed.notify_one();
    }
}

/// Values that are made once, by the first caller that needs them.
#[derive(Debug)]
pub(super) struct Once<T> {
    made: Mutex<HashMap<String, Option<T>>>,
    changed: Condvar,
}

impl<T: Clone> Once<T> {
    /// Returns an empty map.
    pub(super) fn new() -> Self {
        Self { made: Mutex::new(HashMap::new()), changed: Condvar::new() }
    }

    /// Returns the value of `key`, and whether it was made now. While one caller makes the value, others wait; if that fails, the
    /// next caller tries. A caller that makes a value must not wait for another value.
    pub(super) fn get<E>(&self, key: &str, make: impl FnOnce() -> Result<T, E>) -> Result<(T, bool), E> {
        let mut made = lock(&self.made);
        loop {
            match made.get(key) {
                Some(Some(thing)) => return Ok((thing.clone(), false)),
                Some(None) => made = self.changed.wait(made).unwrap_or_else(PoisonError::into_inner),
                None => break,
            }
        }
        made.insert(key.to_owned(), None);
        drop(made);
        let claim = Claim { once: self, key };
        let thing = make()?;
        lock(&self.made).insert(key.to_owned(), Some(thing.clone()));
        drop(claim);
        Ok((thing, true))
    }

    /// Removes the value of `key`, so that it is made again.
    pub(super) fn forget(&self, key: &str) {
        lock(&self.made).remove(key);
    }
}

/// Guard while a value is being made. Other callers continue when the guard is dropped, whatever the result.
struct Claim<'a, T> {
    once: &'a Once<T>,
    key: &'a str,
}

impl<T> Drop for Claim<'_, T> {
    fn drop(&mut self) {
        let mut made = lock(&self.once.made);
        if let Some(None) = made.get(self.key) {
            made.remove(self.key);
        }
        self.once.changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn a_thing_is_made_once_and_again_after_a_failure() {
        let once = Once::new();
        assert_eq!(once.get("a", || Err::<usize, _>("no")), Err("no"));
        let made = AtomicUsize::new(0);
        let make = || once.get("a", || Ok::<_, ()>(made.fetch_add(1, Ordering::SeqCst)));
        thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(make))));
        assert_eq!((made.load(Ordering::SeqCst), make()), (1, Ok((0, false))));
        once.forget("a");
        assert_eq!(make(), Ok((1, true)));
    }

    #[test]
    fn no_more_work_at_once_than_there_is_room_for() {
        let (slots, running, most) = (Slots::new(2), AtomicUsize::new(0), AtomicUsize::new(0));
        let work = || {
            let _slot = slots.take();
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::yield_now();
            running.fetch_sub(1, Ordering::SeqCst);
        };
        thread::scope(|scope| (0..16).for_each(|_| drop(scope.spawn(work))));
        assert!(most.load(Ordering::SeqCst) <= 2);
    }
}
