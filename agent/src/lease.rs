//! What a step's lease is made of, in order, and its end.
//!
//! [`Leases::acquire`] reads top-down: who the user is, which image is meant, its layers, the step's directory. Every way in
//! which a step can end leads to the one routine in `release.rs`, which goes on past errors and may be called any number of times.

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
