//! Accepts connections and answers requests; root only.
//!
//! One thread, [`Server::run_iteration`], waits for all connections, all leases and all signals at once, and reads requests piece by piece as
//! they come, so that no slow, silent or numerous client delays any other. Requests that are complete go to workers
//! ([`workers`]), one thread each for as long as it takes. A connection that got a lease is the lease: it costs two descriptors and
//! no thread, and when it ends, or the process on its other side does, the lease is released.

mod answer;
mod event_loop;
mod leases;
mod socket;
mod workers;

pub use self::event_loop::{Iteration, Server};
pub use self::socket::{listen, signals};
