//! The tests that wait for a lane.

use std::sync::{Mutex, PoisonError};

use super::{Need, Test};

/// The tests that no lane has taken yet, in order.
pub(super) struct Queue(Mutex<Vec<Test>>);

impl Queue {
    /// A queue of these tests.
    pub(super) fn new(tests: Vec<Test>) -> Self {
        Self(Mutex::new(tests))
    }

    /// Takes the first test with one of these needs; a need that comes first in `needs` goes before the others.
    pub(super) fn take(&self, needs: &[Need]) -> Option<Test> {
        let mut tests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = needs.iter().find_map(|need| tests.iter().position(|test| test.need == *need))?;
        Some(tests.remove(place))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Body;
    use super::*;

    fn test(name: &str, need: Need) -> Test {
        Test { name: name.to_owned(), need, body: Body::Machine(Box::new(|| Ok(()))) }
    }

    #[test]
    fn tests_are_taken_by_need_and_in_order() {
        let queue = Queue::new(vec![
            test("a", Need::Cluster),
            test("g", Need::Guest),
            test("b", Need::Cluster),
            test("m", Need::Machine),
        ]);
        let take = |needs: &[Need]| queue.take(needs).map(|test| test.name);
        assert_eq!(take(&[Need::Guest, Need::Cluster]).as_deref(), Some("g"));
        assert_eq!(take(&[Need::Guest, Need::Cluster]).as_deref(), Some("a"));
        assert_eq!(take(&[Need::Cluster]).as_deref(), Some("b"));
        assert_eq!(take(&[Need::Cluster]), None);
        assert_eq!(take(&[Need::Machine]).as_deref(), Some("m"));
    }
}
