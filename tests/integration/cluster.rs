//! Tests on a real Slurm cluster. After each of them both nodes must be clean and idle.

use std::fs;

use integration_tests::cluster::Cluster;

use crate::Listed;

mod access;
mod archives;
mod backend;
mod bucket;
mod calls;
mod chunks;
mod comparison;
mod compat;
mod concurrent;
mod container;
mod daemon;
mod doctor;
mod erofs;
mod errors;
mod failures;
pub(crate) mod faults;
mod fidelity;
mod foreign;
mod identity;
mod inheritance;
mod job_layers;
mod joining;
mod lazy;
mod lookups;
mod messages;
mod migrate;
mod migrate_faults;
mod migrate_names;
mod migrate_options;
mod migrate_sources;
mod mount_program;
mod mpi;
mod named;
mod namespace;
mod odd_images;
mod own_agent;
mod plugin;
mod podman;
mod pull;
mod registry;
mod releases;
mod reload;
mod run;
mod scratch;
mod security;
mod squashed;
mod squashfs_images;
mod ssh;
mod store;
mod subordinate;
mod systemd;
mod trees;
mod trials;
mod typed;
mod unreachable;
mod userns;
mod without_locks;

/// The tests of each file but those of [`typed`].
const FILES: &[&[Listed]] = &[
    run::TESTS,
    container::TESTS,
    container::devices::TESTS,
    container::hooks::TESTS,
    container::squashfs::TESTS,
    comparison::TESTS,
    comparison::binding::TESTS,
    comparison::homes::TESTS,
    joining::TESTS,
    mpi::TESTS,
    plugin::TESTS,
    podman::TESTS,
    podman::work::TESTS,
    doctor::TESTS,
    errors::TESTS,
    failures::TESTS,
    messages::TESTS,
    migrate::TESTS,
    migrate_faults::TESTS,
    migrate_names::TESTS,
    migrate_options::TESTS,
    migrate_sources::TESTS,
    odd_images::TESTS,
    archives::TESTS,
    mount_program::calls::TESTS,
    mount_program::chunks::TESTS,
    mount_program::podman::TESTS,
    mount_program::images::TESTS,
    mount_program::sharing::TESTS,
    mount_program::stores::TESTS,
    mount_program::settings::TESTS,
    mount_program::failures::TESTS,
    squashed::TESTS,
    erofs::TESTS,
    store::TESTS,
    without_locks::TESTS,
    access::TESTS,
    calls::TESTS,
    chunks::TESTS,
    fidelity::TESTS,
    foreign::TESTS,
    identity::TESTS,
    backend::TESTS,
    pull::TESTS,
    unreachable::TESTS,
    compat::TESTS,
    concurrent::TESTS,
    namespace::TESTS,
    inheritance::TESTS,
    scratch::TESTS,
    scratch::disk::TESTS,
    security::TESTS,
    reload::TESTS,
    lazy::TESTS,
    lazy::abilities::TESTS,
    lazy::failures::TESTS,
    lazy::full_caches::TESTS,
    lazy::reach::TESTS,
    bucket::TESTS,
    ssh::TESTS,
    registry::TESTS,
    lookups::TESTS,
    userns::TESTS,
    named::TESTS,
    subordinate::TESTS,
    releases::TESTS,
    trees::TESTS,
    squashfs_images::TESTS,
    job_layers::TESTS,
    trees::defects::TESTS,
    trees::import::TESTS,
    trees::layers::TESTS,
    trees::metadata::TESTS,
    trees::podman_mode::TESTS,
    trees::repository::TESTS,
    trials::TESTS,
    systemd::TESTS,
    systemd::lazy::TESTS,
    systemd::users::TESTS,
    systemd::sessions::TESTS,
    // Last, for what it says of all that came before.
    daemon::TESTS,
    daemon::cost::TESTS,
];

/// All of them, by name.
pub(crate) fn tests() -> impl Iterator<Item = &'static Listed> {
    typed::TESTS.into_iter().chain(FILES.iter().copied()).flatten()
}

/// Runs `body` while a file of a node has other contents, or is not there.
fn with_file(
    cluster: &Cluster,
    node: &str,
    path: &str,
    contents: Option<&str>,
    body: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let file = cluster.path_on(node, path)?;
    let before = fs::read(&file)?;
    let changed = match contents {
        Some(contents) => fs::write(&file, contents),
        None => fs::remove_file(&file),
    };
    let result = changed.map_err(Into::into).and_then(|()| body());
    fs::write(&file, before)?;
    result
}
