//! Changing a store: images and names are added, moved and removed.

mod adopt;
pub(crate) mod chunk_garbage;
mod chunk_trace;
pub(crate) mod chunks;
pub(crate) mod garbage;
pub(crate) mod import;
pub(crate) mod own_file;
pub(crate) mod pending;
pub(crate) mod publish;
pub(crate) mod remove;
pub(crate) mod store;
mod tar_split;
mod trash;
pub(crate) mod whole_file;
