//! Locks of the containers that steps of a job share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A container by its job, the job's restart count, the user and the name.
pub(super) type Key = (u32, u32, u32, String);

/// The locks of containers that are being looked for or made: of two steps that begin at once, one makes the container.
#[derive(Debug, Default)]
pub(super) struct ContainerLocks(Mutex<HashMap<Key, Weak<Mutex<()>>>>);

impl ContainerLocks {
    /// Returns the lock of a container.
    pub(super) fn of(&self, key: Key) -> Arc<Mutex<()>> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = table.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(Mutex::new(()));
        table.insert(key, Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_that_begin_at_once_share_a_lock() {
        let locks = ContainerLocks::default();
        let key = |name: &str| (1, 0, 1001, name.to_owned());
        let one = locks.of(key("a"));
        assert!(Arc::ptr_eq(&one, &locks.of(key("a"))) && !Arc::ptr_eq(&one, &locks.of(key("b"))));
        drop(one);
        locks.of(key("c"));
        assert_eq!(locks.0.lock().unwrap().len(), 1);
    }
}
