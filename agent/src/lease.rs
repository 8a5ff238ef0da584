//! Leases: what a step gets, from the request to the release.
//!
//! [`Leases::acquire`] reads top-down: user, image, layers, the step's directory. Every end of a step leads
//! to the one routine in `release.rs`, which continues past errors and is idempotent.

mod access;
mod acquire;
pub mod cause;
mod container_locks;
mod find;
mod job_layers;
mod keep_for_job;
mod keeper;
mod named;
mod owners;
mod reach;
mod recover;
pub mod refusal;
mod release;
mod step_file;
mod subject;
mod table;
mod trees;

pub use self::cause::Cause;
pub use self::job_layers::JobRun;
pub use self::recover::Recovered;
pub use self::refusal::{Refusal, RefusalKind};
pub use self::subject::Acquired;
pub use self::table::Leases;
pub use crate::journal::LeaseKey;
