//! What a lease is for, and what the making of one leads to.

use std::sync::Arc;
use std::time::Instant;

use parallax_protocol::message::{Grant, Timings};
use parallax_sys::credentials::Credentials;
use parallax_sys::process::Process;

use super::find::Found;
use super::table::Lease;
use crate::identity::Identity;
use crate::journal::LeaseKey;

/// A lease that was granted.
#[derive(Debug)]
pub struct Acquired {
    /// The lease.
    pub key: LeaseKey,
    /// What the step gets.
    pub grant: Grant,
    /// The lease of a container that was made for this step and others, and its owner, which is to be watched.
    pub keeper: Option<(LeaseKey, Process)>,
}

/// What a lease is for: the user and the image, and since when it is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) found: &'a Found,
    pub(super) identity: &'a Identity,
    pub(super) user: &'a Credentials,
    pub(super) started: Instant,
    pub(super) resolved: Instant,
}

impl Subject<'_> {
    /// The duration of the search, in microseconds.
    pub(super) fn resolve(&self) -> u64 {
        micros(self.started, self.resolved)
    }
}

/// A step's directory with its lease.
pub(super) struct Made {
    pub(super) lease: Arc<Lease>,
    pub(super) notice: Option<String>,
    pub(super) timings: Timings,
}

/// The time between two instants in microseconds.
pub(super) fn micros(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX)
}
