//! The rows of the table. A new one is a file with a `ROW` in it, named here.

mod agent_lease;
mod chunk_store;
mod compression;
mod container_start;
mod container_start_fuse;
mod container_start_keep_id;
mod erofs;
mod extra_task;
mod image_scaling;
mod layer_reads;
mod lazy;
mod lazy_nodes;
mod lazy_reads;
mod metadata;
mod migrate;
mod migrate_rss;
mod mount_processes;
mod mount_program;
mod mpi;
mod plain_step;
mod served;
mod shared_base;
mod step_cost;
mod step_start;
mod store_ops;
mod tasks_per_mount;

use super::report::Measured;
use super::session::Session;

/// Something that is measured.
#[derive(Debug)]
pub(crate) struct Row {
    /// Its name on the command line, and that of its first figure.
    pub id: &'static str,
    /// Measures it.
    pub measure: fn(&Session) -> anyhow::Result<Measured>,
}

/// All rows, in the table's order.
pub(crate) const ROWS: &[Row] = &[
    container_start::ROW,
    container_start_keep_id::ROW,
    step_start::ROW,
    extra_task::ROW,
    tasks_per_mount::ROW,
    step_cost::ROW,
    mpi::ROW,
    plain_step::ROW,
    mount_processes::ROW,
    mount_program::ROW,
    container_start_fuse::ROW,
    store_ops::ROW,
    migrate::FIRST,
    migrate::SHARED,
    migrate_rss::ROW,
    compression::ROW,
    erofs::ROW,
    layer_reads::ROW,
    agent_lease::ROW,
    image_scaling::ROW,
    chunk_store::ROW,
    lazy::ROW,
    lazy_reads::ROW,
    lazy_nodes::ROW,
    shared_base::SAVED,
    shared_base::FIRST_START,
    served::STORE,
    served::TREE,
    metadata::ROW,
];
