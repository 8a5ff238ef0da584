//! Leases: what a step gets, from the request to the release.
//!
//! [`Leases::acquire`] reads top-down: user, image, layers, the step's directory. Every end of a step leads
//! to the one routine in `release.rs`, which continues past errors and is idempotent.

mod access;
mod acquire;
pub mod cause;
mod find;
mod owners;
mod recover;
pub mod refusal;
mod release;
mod table;

pub use self::cause::Cause;
pub use self::recover::Recovered;
pub use self::refusal::{Refusal, RefusalKind};
pub use self::table::Leases;
pub use crate::journal::LeaseKey;
