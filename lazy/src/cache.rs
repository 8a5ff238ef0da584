//! The cache of a node.

pub(crate) mod bits;
pub(crate) mod bounded;
pub(crate) mod layer;
