//! Answers of the user database that are used again for a short time: the steps of a job follow one another, and each question costs a
//! process. Name service caches keep entries much longer (`nscd.conf(5)`, `sssd.conf(5)`).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::query::Query;

/// How long an answer is used.
const LIFETIME: Duration = Duration::from_secs(5);
/// Maximum number of answers.
const MAX_ANSWERS: usize = 1024;

/// The answers, as the helper wrote them.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<HashMap<Query, (Instant, Vec<u8>)>>);

impl Cache {
    /// Returns an answer that is not too old.
    pub(super) fn get(&self, query: &Query, now: Instant) -> Option<Vec<u8>> {
        self.answers().get(query).filter(|(since, _)| is_valid(*since, now)).map(|(_, answer)| answer.clone())
    }

    /// Adds an answer.
    pub(super) fn put(&self, query: Query, answer: Vec<u8>, now: Instant) {
        let mut answers = self.answers();
        answers.retain(|_, (since, _)| is_valid(*since, now));
        if answers.len() < MAX_ANSWERS {
            answers.insert(query, (now, answer));
        }
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<Query, (Instant, Vec<u8>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_valid(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < LIFETIME
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_end_and_are_bounded() {
        let (cache, now) = (Cache::default(), Instant::now());
        cache.put(Query::UserById(1), b"a".to_vec(), now);
        assert_eq!(cache.get(&Query::UserById(1), now), Some(b"a".to_vec()));
        assert_eq!(cache.get(&Query::UserById(2), now), None);
        assert_eq!(cache.get(&Query::UserById(1), now + LIFETIME), None);
        for uid in 0..=u32::try_from(MAX_ANSWERS).unwrap() {
            cache.put(Query::UserById(uid), Vec::new(), now + LIFETIME);
        }
        assert_eq!(cache.answers().len(), MAX_ANSWERS);
    }
}
