//! Steps that read an image in chunks on a node whose cache is full.

use anyhow::{Context as _, ensure};
use integration_tests::cluster::Cluster;
use integration_tests::held::HeldStep;
use integration_tests::lazy_service::LazyService;
use parallax_chunks::Index;

use super::failures::{CHUNKS_ONLY, WHOLE, all_is_read, all_is_read_from_a_whole_file, expected, start_readers};
use super::{CACHE, CONFIG, NODE, backing_files, indexes, publish, wait_for_text, wait_until_complete, with_keys};
use crate::cluster::backend::with_config;

tests! { cluster:
    a_full_cache_is_replaced_by_whole_files,
    a_full_disk_is_replaced_by_whole_files,
    without_whole_files_a_full_cache_is_passed_by,
    a_full_cache_keeps_what_is_mounted,
}

fn a_full_cache_is_replaced_by_whole_files(cluster: &Cluster) -> anyhow::Result<()> {
    let expected = expected(cluster)?;
    with_keys(cluster, WHOLE, "timeout = 600\ncache_size = 4\n", || {
        let _service = LazyService::start(cluster, NODE)?;
        all_is_read_from_a_whole_file(cluster, &expected)?;
        wait_for_text(&cluster.path_on(NODE, "/run/lazy/log")?, 0, "the cache is full")
    })
}

/// The file system of the cache has less than the cache may have.
fn a_full_disk_is_replaced_by_whole_files(cluster: &Cluster) -> anyhow::Result<()> {
    const DISK: &str = "/tmp/small-disk";
    let expected = expected(cluster)?;
    cluster.shell(NODE, &format!("mkdir {DISK}; mount -t tmpfs -o size=4m,mode=700 small-disk {DISK}"))?;
    let result = publish(cluster, WHOLE).and_then(|()| {
        let config = format!("{}timeout = 600\n", CONFIG.replace(CACHE, DISK));
        with_config(cluster, NODE, &config, || {
            let _service = LazyService::start_with_cache(cluster, NODE, DISK)?;
            all_is_read_from_a_whole_file(cluster, &expected)?;
            wait_for_text(&cluster.path_on(NODE, "/run/lazy/log")?, 0, "No space left on device")
        })
    });
    cluster.shell(NODE, &format!("umount {DISK}; rmdir {DISK}"))?;
    cluster.shell("ctl", "rm -rf /shared/lazy")?;
    result
}

/// Disk space of the cache.
fn cached_bytes(cluster: &Cluster) -> anyhow::Result<u64> {
    let used = cluster.shell(NODE, &format!("du --block-size=1 --summarize {CACHE}"))?;
    Ok(used.split_whitespace().next().context("no size")?.parse()?)
}

/// What is read does not stay on the node then.
fn without_whole_files_a_full_cache_is_passed_by(cluster: &Cluster) -> anyhow::Result<()> {
    let expected = expected(cluster)?;
    with_keys(cluster, CHUNKS_ONLY, "timeout = 20\ncache_size = 4\n", || {
        let _service = LazyService::start(cluster, NODE)?;
        let step = HeldStep::start(cluster, "u1", &["-w", NODE, "--parallax-image=python"], 1, "echo begun")?;
        all_is_read(start_readers(cluster, NODE)?, &expected)?;
        let used = cached_bytes(cluster)?;
        ensure!((1 << 20..5 << 20).contains(&used), "{used} bytes");
        step.finish()?;
        all_is_read(start_readers(cluster, NODE)?, &expected)
    })
}

/// Complete layers are not removed under the steps that read them, and go when they no longer are.
fn a_full_cache_keeps_what_is_mounted(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "cat /bin/* /usr/bin/* /lib/*/* /usr/lib/*/* 2>/dev/null";
    let read = |node| cluster.srun("u1", &["-w", node, "--parallax-image=tiny", "sh", "-c", script]);
    let expected = read("n2")?.stdout;
    let result = publish(cluster, CHUNKS_ONLY).and_then(|()| {
        let size: u64 = indexes(cluster)?.iter().map(Index::size).sum();
        cluster.shell("ctl", "parallax --store /shared/lazy migrate --chunked --chunks-only oci:/images/tiny")?;
        let all: u64 = indexes(cluster)?.iter().map(Index::size).sum();
        let limit = size.div_ceil(1 << 20);
        ensure!(expected.len() > 1 << 20 && all > limit << 20, "the cache can take {all} bytes");
        with_config(cluster, NODE, &format!("{CONFIG}timeout = 20\ncache_size = {limit}\n"), || {
            let _service = LazyService::start(cluster, NODE)?;
            let step = HeldStep::start(cluster, "u1", &["-w", NODE, "--parallax-image=python"], 1, "echo begun")?;
            wait_until_complete(cluster, CACHE, 5)?;
            let files = backing_files(cluster)?;
            ensure!(read(NODE)?.stdout == expected, "other bytes");
            ensure!(backing_files(cluster)? == files, "{files:?} were mounted");
            step.finish()?;
            ensure!(read(NODE)?.stdout == expected, "other bytes");
            let left = cluster.shell(NODE, &format!("ls {} 2>/dev/null || true", files.join(" ")))?;
            ensure!(left.lines().count() < files.len(), "{left}");
            let used = cached_bytes(cluster)?;
            ensure!(used < (limit + 1) << 20, "{used} bytes");
            Ok(())
        })
    });
    cluster.shell("ctl", "rm -rf /shared/lazy")?;
    result
}
