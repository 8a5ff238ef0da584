//! What tests, bench and demo have in common: the test cluster, and what "clean" means.

#![allow(clippy::indexing_slicing, reason = "a test that indexes past the end fails, as it should")]

pub mod clean;
pub mod cluster;
pub mod device_group;
pub mod held;
pub mod images;
pub mod lazy_service;
pub mod load;
pub mod many_images;
pub mod memory_group;
pub mod processes;
pub mod runner;
pub mod synthetic;
pub mod table;
pub mod touched;
pub mod tracing;
pub mod without_locks;
