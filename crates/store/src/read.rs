//! Reading a store: as root, which trusts only the store's owner, and for people.

mod access;
pub(crate) mod foreign;
mod id_prefix;
pub(crate) mod list;
pub(crate) mod trusted;

pub use foreign::{LayerSizes, listed_images};
pub use list::{Listed, Listing, list};
pub use trusted::{OpenError, StoreKey, TrustedStore};
