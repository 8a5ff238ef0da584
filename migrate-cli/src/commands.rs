//! The commands, one file each.

pub(crate) mod about;
mod adopt;
pub(crate) mod chunk;
pub(crate) mod doctor;
mod each;
pub(crate) mod edf;
pub(crate) mod find;
pub(crate) mod gc;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod list;
pub(crate) mod migrate;
pub(crate) mod record_reads;
pub(crate) mod rm;
pub(crate) mod status;
pub(crate) mod trace;
pub(crate) mod verify;
