//! Tar archives: reading them entry by entry, within limits, and describing their bytes for Podman.

pub(crate) mod entry;
pub(crate) mod header;
pub(crate) mod limits;
pub(crate) mod member;
pub(crate) mod pax;
pub(crate) mod reader;
mod sparse;
pub(crate) mod split;
