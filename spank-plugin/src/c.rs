//! What is needed of `slurm/spank.h`, `dlfcn.h` and `stdlib.h`.

#![allow(
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_code,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "made by bindgen, with the names of C"
)]

include!(concat!(env!("OUT_DIR"), "/c.rs"));

/// `ESPANK_SUCCESS`.
pub(crate) const SUCCESS: spank_err_t = 0;
