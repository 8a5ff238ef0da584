//! Reading a store: as root, which trusts only the store's owner, and for people.

mod access;
mod erofs;
pub(crate) mod foreign;
mod fs_verity;
mod id_prefix;
pub(crate) mod list;
pub(crate) mod trusted;
pub(crate) mod unpacked;

pub use foreign::{LayerSizes, Unrecorded, listed_images};
pub use list::{Listed, ListedUnpacked, Listing, list};
pub use trusted::{OpenError, StoreKey, TrustedStore};
