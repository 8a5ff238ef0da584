//! What is needed of `slurm/spank.h`, `dlfcn.h` and `stdlib.h`.

#![allow(dead_code, missing_docs, non_camel_case_types, non_upper_case_globals, unsafe_code)]
#![allow(clippy::all, clippy::pedantic)]

include!(concat!(env!("OUT_DIR"), "/c.rs"));
