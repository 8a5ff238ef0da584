//! The owners of stores that the kernel may read (`agent.trusted_owners`).
//!
//! A name is looked up when a store's owner is none of the ids known so far, and as long as the user database does not know it:
//! an account may appear later. A look-up that fails or times out decides nothing and is not cached.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use parallax_config::Owner;

/// Timeout for looking up the trusted owners in the user database.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// The stack of the thread that asks the user database, in bytes: its modules are third-party code.
const STACK: usize = 512 * 1024;

/// The trust in an owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Yes.
    Yes,
    /// No.
    No,
    /// The user database did not answer; a part of a sentence.
    Unknown(String),
}

/// Looks up a user's id.
pub type Lookup = Arc<dyn Fn(&str) -> io::Result<Option<u32>> + Send + Sync>;

/// The trusted owners.
pub struct TrustedOwners {
    state: Mutex<State>,
    /// True if a thread still waits for the user database.
    asking: Arc<AtomicBool>,
    lookup: Lookup,
    timeout: Duration,
}

#[derive(Debug, Default)]
struct State {
    ids: BTreeSet<u32>,
    /// Names whose id is not known yet.
    names: Vec<String>,
    /// Names of which the log says that there is no such user.
    reported: BTreeSet<String>,
}

impl fmt::Debug for TrustedOwners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustedOwners").field("state", &self.state).finish_non_exhaustive()
    }
}

impl TrustedOwners {
    /// Makes the trusted owners of a configuration, without a look-up.
    #[must_use]
    pub fn new(owners: &[Owner], lookup: Lookup) -> Self {
        Self::with_lookup(owners, lookup, LOOKUP_TIMEOUT)
    }

    fn with_lookup(owners: &[Owner], lookup: Lookup, timeout: Duration) -> Self {
        let mut state = State::default();
        for owner in owners {
            match owner {
                Owner::Id(id) => drop(state.ids.insert(*id)),
                // Whatever the user database says.
                Owner::Name(name) if name == "root" => drop(state.ids.insert(0)),
                Owner::Name(name) => state.names.push(name.clone()),
            }
        }
        Self { state: Mutex::new(state), asking: Arc::default(), lookup, timeout }
    }

    /// Checks whether the user with this id is a trusted owner.
    #[must_use]
    pub fn trust(&self, owner: u32) -> Trust {
        // Locked during the look-up: other steps need the same answer.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.ids.contains(&owner) {
            return Trust::Yes;
        }
        if state.names.is_empty() {
            return Trust::No;
        }
        let doubt = self.ask(&mut state).err();
        match doubt {
            _ if state.ids.contains(&owner) => Trust::Yes,
            None => Trust::No,
            Some(reason) => Trust::Unknown(reason),
        }
    }

    /// Asks for the names that are not known yet.
    fn ask(&self, state: &mut State) -> Result<(), String> {
        let failed = |reason: &str| Err(format!("cannot look up trusted_owners in the user database: {reason}"));
        if self.asking.swap(true, Ordering::AcqRel) {
            return failed("an earlier look-up has not ended");
        }
        let (answers, answered) = sync_channel(state.names.len());
        let (names, lookup, asking) = (state.names.clone(), Arc::clone(&self.lookup), Arc::clone(&self.asking));
        let work = move || {
            let mut names = names.into_iter();
            while let Some(name) = names.next() {
                let answer = lookup(&name);
                // Before the last answer, so that its receiver can ask again.
                if names.len() == 0 {
                    asking.store(false, Ordering::Release);
                }
                let _ = answers.send((name, answer));
            }
        };
        if let Err(error) = thread::Builder::new().name("owners".to_owned()).stack_size(STACK).spawn(work) {
            self.asking.store(false, Ordering::Release);
            return failed(&format!("no thread: {error}"));
        }
        let deadline = std::time::Instant::now() + self.timeout;
        let mut outcome = Ok(());
        for _ in 0..state.names.len() {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            match answered.recv_timeout(left) {
                Ok((name, Ok(Some(id)))) => {
                    state.ids.insert(id);
                    state.names.retain(|other| *other != name);
                }
                Ok((name, Ok(None))) => {
                    if state.reported.insert(name.clone()) {
                        tracing::warn!(name, "user of trusted_owners not found; it is looked up again when needed");
                    }
                }
                Ok((name, Err(error))) => outcome = failed(&format!("{name}: {error}")),
                Err(_) => return failed("timed out"),
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::sync::{Condvar, MutexGuard};

    use super::*;

    type Function = fn(&str) -> io::Result<Option<u32>>;

    const FAR: Duration = Duration::from_secs(60);

    fn owners(names: &[&str], lookup: Function, timeout: Duration) -> TrustedOwners {
        let named = names.iter().map(|&name| Owner::Name(name.to_owned()));
        TrustedOwners::with_lookup(&named.chain([Owner::Id(77)]).collect::<Vec<_>>(), Arc::new(lookup), timeout)
    }

    #[test]
    fn ids_and_root_need_no_look_up() {
        let owners = owners(&["root", "images"], |_| unreachable!("looked up"), FAR);
        assert_eq!((owners.trust(0), owners.trust(77)), (Trust::Yes, Trust::Yes));
    }

    #[test]
    fn an_account_that_appears_later_is_trusted() {
        static ASKED: AtomicU32 = AtomicU32::new(0);
        let lookup: Function = |_| Ok((ASKED.fetch_add(1, Ordering::Relaxed) > 0).then_some(5000));
        let owners = owners(&["images"], lookup, FAR);
        assert_eq!((owners.trust(5000), owners.trust(5000)), (Trust::No, Trust::Yes));
        assert_eq!((owners.trust(6000), ASKED.load(Ordering::Relaxed)), (Trust::No, 2));
    }

    #[test]
    fn an_error_is_a_doubt() {
        let lookup: Function =
            |name| if name == "a" { Err(io::ErrorKind::ConnectionRefused.into()) } else { Ok(Some(9)) };
        let owners = owners(&["a", "b"], lookup, FAR);
        assert_eq!(owners.trust(9), Trust::Yes);
        assert!(matches!(owners.trust(8), Trust::Unknown(reason) if reason.contains("a: ")));
    }

    #[test]
    fn a_look_up_that_hangs_is_a_doubt_until_it_ends() {
        static OPEN: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());
        let open = || -> MutexGuard<'static, bool> { OPEN.0.lock().unwrap() };
        let lookup: Function = |_| {
            drop(OPEN.1.wait_while(OPEN.0.lock().unwrap(), |open| !*open).unwrap());
            Ok(Some(5000))
        };
        let owners = owners(&["images"], lookup, Duration::from_millis(10));
        assert!(matches!(owners.trust(5000), Trust::Unknown(reason) if reason.contains("timed out")));
        // No step waits for the same hanging look-up twice.
        assert!(matches!(owners.trust(5000), Trust::Unknown(reason) if reason.contains("earlier look-up")));
        assert_eq!(owners.trust(77), Trust::Yes);
        *open() = true;
        OPEN.1.notify_all();
        while owners.asking.load(Ordering::Acquire) {
            thread::yield_now();
        }
        let patient = TrustedOwners { timeout: FAR, ..owners };
        assert_eq!(patient.trust(5000), Trust::Yes);
    }
}
