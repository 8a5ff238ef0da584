//! Chunks of layers on a node: fetched from sources, kept in a bounded cache.
//!
//! - [`Sources`]: the places that have the chunks of an index, in the order in which they are asked; [`DirectorySource`] and
//!   [`HttpSource`]. What they return is checked against the chunk's id.
//! - [`Cache`]: the cache of a node; [`CachedLayer`]: the part of a layer's file that is there. Neither a crash nor a power failure makes
//!   wrong bytes readable.
//!
//! Nothing here needs privileges.

mod cache;
mod source;

pub use cache::bounded::{Cache, CacheError};
pub use cache::layer::CachedLayer;
pub use source::directory::DirectorySource;
pub use source::http::{HttpError, HttpOptions, HttpProxy, HttpSource};
pub use source::{FetchError, Source, SourceError, Sources};
