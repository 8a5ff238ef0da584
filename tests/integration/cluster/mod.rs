//! Tests on a real Slurm cluster. After each of them both nodes must be clean and idle.

use crate::OnCluster;

mod end;
mod errors;
mod fidelity;
mod migrate;
mod podman_mode;
mod run_mode;

/// All of them, by name.
pub fn tests() -> impl Iterator<Item = &'static (&'static str, OnCluster)> {
    [run_mode::TESTS, podman_mode::TESTS, end::TESTS, errors::TESTS, migrate::TESTS, fidelity::TESTS]
        .into_iter()
        .flatten()
}
