//! Ends the process at a chosen step, so that tests can check the state after a crash.
//!
//! With `PARALLAX_TEST_KILL_AT=n` in the environment the process dies as by `kill -9` right before its n-th step. The callers of
//! [`point`] define the steps: in a store each write, sync, rename, link and removal, in the mount program each mount
//! and each process. The code is compiled with debug assertions only, so no release build has it. A cargo feature would affect
//! other crates: cargo unites the features of everything that is built together.

/// One step; ends the process if it is the chosen one.
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

/// One step; nothing in a release build.
#[cfg(not(debug_assertions))]
pub const fn point() {}
