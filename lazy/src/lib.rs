//! `parallax-lazy`: layers whose chunks are fetched as they are read.
//!
//! The agent makes a file by FUSE for a layer that has chunks, and hands its descriptors over ([`connection`]). What is read
//! of the file is fetched first, and the rest in the background ([`served`]); when all of it is there, the agent uses the complete file
//! instead, and FUSE is gone. The process needs no privilege.
//!
//! - [`daemon`]: the socket, and a thread for each connection.
//! - [`handover`]: what a later agent needs to go on with a layer.
//! - [`queue`]: the order of fetches. [`ahead`]: what is fetched before it is read. `streams`: what is read in sequence.
//! - [`configured`], `source`: the places that have chunks. What they return is checked against the chunk's id.
//! - [`uncached`]: reads of a layer without the cache. [`single`]: one layer for one user, without an agent.
//! - `cache`: the bounded cache of the node. Neither a crash nor a power failure makes wrong bytes readable.

pub mod ahead;
pub mod args;
mod cache;
pub mod configured;
pub mod connection;
pub mod daemon;
pub mod handover;
pub mod queue;
pub mod served;
pub mod single;
mod source;
mod streams;
pub mod uncached;

pub use cache::bounded::{Cache, CacheError};
pub use cache::layer::CachedLayer;
pub use source::directory::DirectorySource;
pub use source::http::{HttpOptions, HttpProxy, HttpSource};
pub use source::settings::SettingsError;
pub use source::{Counted, FetchError, Source, SourceError, Sources};
