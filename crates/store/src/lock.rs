//! Locks: those of the store, and those of writers' working directories.

pub(crate) mod fcntl;
pub(crate) mod file;
pub(crate) mod work_directory;
