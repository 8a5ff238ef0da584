//! Many small files are read at the same time: on a network file system each takes a round trip or more.

use std::panic::resume_unwind;
use std::thread;

/// Number of parallel reads. They wait for a server, not for a processor.
const AT_ONCE: usize = 8;
/// Minimum number of items per thread.
const ENOUGH: usize = 32;

/// Returns the results of `work` for `items`, in their order.
pub(crate) fn map<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let part = items.len().div_ceil(AT_ONCE).max(ENOUGH);
    if items.len() <= part {
        return items.iter().map(work).collect();
    }
    thread::scope(|scope| {
        let parts = items.chunks(part).map(|part| scope.spawn(|| part.iter().map(&work).collect::<Vec<R>>()));
        // All are begun before the first one is waited for.
        let parts: Vec<_> = parts.collect();
        parts.into_iter().flat_map(|part| part.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_out_and_the_order_stays() {
        for count in [0, 1, ENOUGH, ENOUGH + 1, 1000, 1001] {
            let items: Vec<usize> = (0..count).collect();
            assert_eq!(map(&items, |item| item * 2), items.iter().map(|item| item * 2).collect::<Vec<_>>());
        }
    }
}
