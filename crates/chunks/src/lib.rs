//! Content-defined chunks of files, in the formats of casync: chunks, their ids and files, and indexes (`.caibx`).
//!
//! An index says of which chunks a file consists; a chunk store (`.castr`) has each chunk once, compressed, under the digest of
//! its content. Files with common parts share chunks, also if the parts have moved. The formats are casync's, so `casync extract`
//! reads what is written here and indexes of casync can be read. Nothing here touches a file; only [`Chunks`] and [`split()`] read
//! from what they are given.
//!
//! - [`Parameters`], [`Cutter`]: where a file is cut.
//! - [`Chunks`], [`split()`]: the chunks of a stream, one after another or by several threads.
//! - [`ChunkId`], [`Algorithm`]: ids of chunks, and their paths in a chunk store.
//! - [`compress`], [`decode`]: the files of a chunk store.
//! - [`Index`]: indexes, read and written; [`Matcher`]: whether a file is what an index says.
//! - [`Trace`]: the chunks that a start reads.

mod cutter;
mod frame;
mod id;
mod index;
mod matcher;
mod split;
mod table;
mod trace;

pub use cutter::{Cutter, InvalidParameters, Parameters};
pub use frame::{FrameError, compress, decode};
pub use id::{Algorithm, ChunkId};
pub use index::{Index, IndexError, Part};
pub use matcher::Matcher;
pub use split::{Chunks, split};
pub use trace::{Trace, TraceError};

#[cfg(test)]
mod casync_tests;
