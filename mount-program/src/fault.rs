//! Ends the process at a chosen step, so that tests can see what `kill -9` there leaves.
//!
//! With `PARALLAX_TEST_KILL_AT=n` in the environment the process dies right before its n-th step. This is compiled with debug
//! assertions only, so no release build has it.

#[cfg(debug_assertions)]
pub fn point() {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static AT: OnceLock<Option<u64>> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let at = AT.get_or_init(|| std::env::var("PARALLAX_TEST_KILL_AT").ok()?.parse().ok());
    if at.is_some_and(|at| COUNT.fetch_add(1, Ordering::Relaxed) + 1 == at) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

#[cfg(not(debug_assertions))]
pub const fn point() {}
