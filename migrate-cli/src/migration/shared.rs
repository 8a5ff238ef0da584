//! What the sources of one call share: the right to convert, and layers that several of them have.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// So many may work at once.
#[derive(Debug)]
pub struct Slots {
    free: Mutex<usize>,
    freed: Condvar,
}

/// The right to work, until it is dropped.
#[derive(Debug)]
pub struct Slot<'a>(&'a Slots);

impl Slots {
    /// Room for `count`.
    pub fn new(count: usize) -> Self {
        Self { free: Mutex::new(count), freed: Condvar::new() }
    }

    /// Waits for room.
    pub fn take(&self) -> Slot<'_> {
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

/// Things that are made once, whoever asks for them first.
#[derive(Debug)]
pub struct Once<T> {
    made: Mutex<HashMap<String, Option<T>>>,
    changed: Condvar,
}

impl<T: Clone> Once<T> {
    /// Nothing is made yet.
    pub fn new() -> Self {
        Self { made: Mutex::new(HashMap::new()), changed: Condvar::new() }
    }

    /// What is called `key`, and whether it was made now. While one makes it, others wait; if that fails, the next one
    /// tries. Who makes something must not wait for another thing.
    pub fn get<E>(&self, key: &str, make: impl FnOnce() -> Result<T, E>) -> Result<(T, bool), E> {
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

    /// Forgets what is called `key`, so that it is made again.
    pub fn forget(&self, key: &str) {
        lock(&self.made).remove(key);
    }
}

/// Something is being made. Others go on when this is dropped, whatever came of it.
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
