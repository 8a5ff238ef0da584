//! The commands, one file each.

pub mod about;
mod adopt;
pub mod doctor;
mod each;
pub mod find;
pub mod gc;
pub mod inspect;
pub mod list;
pub mod migrate;
pub mod rm;
pub mod status;
pub mod verify;
