//! Steps whose image arrives as it is read: chunks, fetched by `parallax-lazy` without privileges.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use integration_tests::clean;
use integration_tests::cluster::{Cluster, TEST_TIMEOUT};
use integration_tests::held::HeldStep;
use integration_tests::lazy_service::LazyService;
use integration_tests::processes;
use parallax_chunks::{ChunkId, Index};
use parallax_format::layout::{CHUNK_INDEX, CHUNK_STORE, LAYERS};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;

use super::backend::with_config;

pub(super) mod abilities;
pub(super) mod failures;
pub(super) mod full_caches;
pub(super) mod reach;

tests! { cluster:
    a_step_reads_an_image_of_chunks_and_keeps_it_when_the_worker_is_killed,
    a_node_without_a_worker_uses_whole_files_and_says_why,
    a_node_without_a_worker_refuses_an_image_in_chunks_only,
    a_step_in_chunks_only_waits_for_another_worker_and_fails_without,
    another_agent_goes_on_with_the_layers_of_one_that_was_killed,
    a_step_that_is_cancelled_while_everything_hangs_leaves_its_node_idle,
    a_step_reads_on_while_the_worker_and_the_agent_are_upgraded,
    after_a_power_cut_the_cache_is_used_and_nothing_is_left,
}

const NODE: &str = "n1";
/// The cache of [`LazyService::start`].
const CACHE: &str = "/run/lazy/cache";
/// A cache that a power cut leaves, as a disk does.
const KEPT_CACHE: &str = "/shared/lazy-cache";
const CONFIG: &str =
    "stores = [\"/shared/lazy\"]\n[lazy]\nenabled = true\nsocket = \"/run/lazy/socket\"\ncache = \"/run/lazy/cache\"\n";

/// Runs `body` while the node's agent reads the image `python` in chunks. There are no whole files unless `whole`.
fn with_chunks(cluster: &Cluster, whole: bool, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    with_keys(cluster, whole, "timeout = 600\n", body)
}

/// As [`with_chunks`], with these keys of the section `[lazy]`.
fn with_keys(
    cluster: &Cluster,
    whole: bool,
    keys: &str,
    body: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let config = format!("{CONFIG}{keys}");
    let result = publish(cluster, whole).and_then(|()| with_config(cluster, NODE, &config, body));
    cluster.shell("ctl", "rm -rf /shared/lazy")?;
    result
}

/// Makes the store with the image `python` in chunks; without whole files unless `whole`.
pub(super) fn publish(cluster: &Cluster, whole: bool) -> anyhow::Result<()> {
    let only = if whole { "" } else { "--chunks-only" };
    cluster
        .shell("ctl", &format!("parallax --store /shared/lazy migrate --chunked {only} oci:/images/python"))
        .map(drop)
}

/// Prints one digest of all files of the image.
pub(super) const READ_ALL: &str =
    "find /usr /opt -xdev -type f -print0 2>/dev/null | sort -z | xargs -0 cat 2>/dev/null | sha256sum";

fn reason(cluster: &Cluster) -> anyhow::Result<String> {
    let done = cluster.run(NODE, "root", &["parallax", "status", "--json"])?.success()?;
    let status: Value = serde_json::from_str(&done.stdout)?;
    let reason = status.pointer("/steps/0/source/reason").and_then(Value::as_str);
    Ok(reason.with_context(|| format!("no reason in {status}"))?.to_owned())
}

/// Waits until a log has a text, in what was written after `from` bytes.
pub(super) fn wait_for_text(path: &Path, from: usize, text: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + TEST_TIMEOUT;
    loop {
        let log = String::from_utf8_lossy(&fs::read(path)?).into_owned();
        if log.get(from..).is_some_and(|log| log.contains(text)) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "no {text:?} in {}: {log}", path.display());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The files below the loop devices of the node's layers.
fn backing_files(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let text = "for device in $(awk '$0 ~ \" - squashfs \" && $5 ~ \"/run/parallax/layers/\" { print $3 }' /proc/1/mountinfo | sort -u); do
        cat /sys/dev/block/$device/loop/backing_file; done";
    Ok(cluster.shell(NODE, text)?.lines().map(str::to_owned).collect())
}

/// Waits until so many of the image's five layers are plain files of the cache. Nothing tells of it.
fn wait_until_complete(cluster: &Cluster, cache: &str, layers: usize) -> anyhow::Result<()> {
    let deadline = Instant::now() + TEST_TIMEOUT;
    loop {
        let files = backing_files(cluster)?;
        if files.len() == 5 && files.iter().filter(|file| file.contains(cache)).count() == layers {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{files:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn indexes(cluster: &Cluster) -> anyhow::Result<Vec<Index>> {
    let mut indexes = Vec::new();
    for entry in fs::read_dir(cluster.shared().join("lazy").join(LAYERS))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == CHUNK_INDEX) {
            indexes.push(Index::parse(&fs::read(path)?)?);
        }
    }
    Ok(indexes)
}

fn largest_index(cluster: &Cluster) -> anyhow::Result<Index> {
    indexes(cluster)?.into_iter().max_by_key(Index::size).context("no index")
}

/// Returns the chunk in the middle of the largest layer, which the start of the image does not need.
pub(super) fn middle_chunk(cluster: &Cluster) -> anyhow::Result<ChunkId> {
    let largest = largest_index(cluster)?;
    Ok(largest.parts().nth(largest.parts().len() / 2).context("no chunk")?.id)
}

/// Takes that chunk away. Returns its path, and where it is.
pub(super) fn take_a_chunk(cluster: &Cluster) -> anyhow::Result<[PathBuf; 2]> {
    let store = cluster.shared().join("lazy");
    let path = store.join(CHUNK_STORE).join(middle_chunk(cluster)?.path());
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside)?;
    Ok([path, aside])
}

/// The descriptors of an agent end with it; those of a layer come back from the worker.
fn another_agent_goes_on_with_the_layers_of_one_that_was_killed(cluster: &Cluster) -> anyhow::Result<()> {
    let expected = expected(cluster, "n2")?;
    with_chunks(cluster, false, || {
        let [chunk, aside] = take_a_chunk(cluster)?;
        let mut service = LazyService::start(cluster, NODE)?;
        let step = HeldStep::start(cluster, "u1", &["-w", NODE, "--parallax-image=python"], 1, "echo begun")?;
        let reading = start_reading(cluster, NODE)?;
        wait_for_text(&cluster.path_on(NODE, "/run/lazy/log")?, 0, "readers wait")?;
        let shown =
            cluster.shell(NODE, "parallax status --lazy; parallax status --lazy --json; parallax doctor || true")?;
        let metrics = cluster.shell(NODE, "parallax status --metrics")?;
        for line in ["parallax_lazy_up 1", "parallax_lazy_layers{state=\"waiting\"} 1"] {
            ensure!(metrics.lines().any(|found| found == line), "no {line} in {metrics}");
        }
        for part in ["  readers wait\n", " of 21.5 GB, ", "default.castr: ", "\"waits\": true", "parallax-lazy "] {
            ensure!(shown.contains(part), "no {part:?} in {shown}");
        }
        let agent = cluster.state().join(format!("log/{NODE}-agent.log"));
        let from = fs::read(&agent)?.len();
        processes::kill(cluster, NODE, "parallax-agent")?;
        cluster.service(NODE, "start", "agent")?;
        // Only the new agent has the descriptors that the next worker needs, and exchanges the file.
        wait_for_text(&agent, from, "layer adopted from an earlier agent")?;
        service.kill()?;
        wait_for_text(&agent, from, "layer served by another worker")?;
        fs::rename(aside, chunk)?;
        end_reading(reading, &expected)?;
        wait_until_complete(cluster, CACHE, 5)?;
        step.finish()
    })
}

fn a_step_reads_an_image_of_chunks_and_keeps_it_when_the_worker_is_killed(cluster: &Cluster) -> anyhow::Result<()> {
    let expected = expected(cluster, "n2")?;
    with_chunks(cluster, false, || {
        let mut service = LazyService::start(cluster, NODE)?;
        let step = HeldStep::start(cluster, "u1", &["-w", NODE, "--parallax-image=python"], 1, "echo begun")?;
        let reason = reason(cluster)?;
        ensure!(reason.ends_with("; 5 of 5 layers by chunks"), "{reason}");
        let reading = start_reading(cluster, NODE)?;
        for _ in 0..3 {
            service.kill()?;
        }
        end_reading(reading, &expected)?;
        wait_until_complete(cluster, CACHE, 5)?;
        step.finish()
    })
}

fn a_node_without_a_worker_uses_whole_files_and_says_why(cluster: &Cluster) -> anyhow::Result<()> {
    with_chunks(cluster, true, || {
        let step = HeldStep::start(cluster, "u1", &["-w", NODE, "--parallax-image=python"], 1, "echo begun")?;
        let reason = reason(cluster)?;
        ensure!(reason.contains("; whole files instead of chunks: no parallax-lazy on /run/lazy/socket: "), "{reason}");
        step.finish()
    })
}

fn a_node_without_a_worker_refuses_an_image_in_chunks_only(cluster: &Cluster) -> anyhow::Result<()> {
    let refused = |expected: &str| {
        let done = cluster.srun("u1", &["-w", NODE, "--parallax-image=python", "true"])?;
        let expected = format!("the store has it in chunks only, and {expected}");
        ensure!(done.code != 0 && done.stderr.contains(&expected), "no {expected:?} in {done:?}");
        ensure!(done.stderr.contains("\"parallax chunk --whole\" makes its file again"), "{done:?}");
        Ok(())
    };
    publish(cluster, false)?;
    let result =
        with_config(cluster, NODE, CONFIG, || refused("no parallax-lazy on /run/lazy/socket: ")).and_then(|()| {
            with_config(cluster, NODE, &CONFIG.replace("enabled = true", "enabled = false"), || {
                refused("\"lazy.enabled\" is false on this node")?;
                let doctor = cluster.shell(NODE, "parallax doctor || true")?;
                ensure!(doctor.contains("/shared/lazy has 1 image in chunks only"), "{doctor}");
                cluster.shell("ctl", "parallax --store /shared/lazy chunk --whole python")?;
                let done = cluster.srun("u1", &["-w", NODE, "--parallax-image=python", "true"])?;
                done.success().map(drop)
            })
        });
    cluster.shell("ctl", "rm -rf /shared/lazy")?;
    result
}

/// Nothing keeps the worker's socket here while it is away.
fn a_step_in_chunks_only_waits_for_another_worker_and_fails_without(cluster: &Cluster) -> anyhow::Result<()> {
    let expected = expected(cluster, "n2")?;
    let agent = cluster.state().join(format!("log/{NODE}-agent.log"));
    with_chunks(cluster, false, || {
        let [chunk, aside] = take_a_chunk(cluster)?;
        let mut service = LazyService::start(cluster, NODE)?;
        let reading = start_reading(cluster, NODE)?;
        let log = cluster.path_on(NODE, "/run/lazy/log")?;
        wait_for_text(&log, 0, "readers wait")?;
        let leave = |service: &mut LazyService| {
            let from = fs::read(&agent)?.len();
            service.leave()?;
            wait_for_text(&agent, from, "readers of the layer wait for another worker")?;
            anyhow::Ok(from)
        };
        let from = leave(&mut service)?;
        service.come_back()?;
        wait_for_text(&agent, from, "layer served by another worker")?;
        let from = leave(&mut service)?;
        // Nobody comes.
        let read = reading.wait_with_output()?;
        wait_for_text(&agent, from, "reading the layer failed; new steps get another mount of it")?;
        ensure!(String::from_utf8_lossy(&read.stdout) != expected, "{read:?}");
        service.come_back()?;
        fs::rename(aside, chunk)?;
        end_reading(start_reading(cluster, NODE)?, &expected)
    })
}

/// Neither the chunk store nor a whole file answers, and a reader that waits for a disk cannot be killed.
fn a_step_that_is_cancelled_while_everything_hangs_leaves_its_node_idle(cluster: &Cluster) -> anyhow::Result<()> {
    with_keys(cluster, false, "timeout = 20\n", || {
        let [chunk, _] = take_a_chunk(cluster)?;
        mknodat(CWD, &chunk, FileType::Fifo, Mode::from_raw_mode(0o644), 0)?;
        let _service = LazyService::start(cluster, NODE)?;
        let mut read = cluster.command(
            "ctl",
            "u1",
            &["srun", "-J", "hangs", "-w", NODE, "--parallax-image=python", "sh", "-c", READ_ALL],
        );
        let reading = read.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        wait_for_hung_reader(cluster)?;
        cluster.run("ctl", "u1", &["scancel", "--name=hangs"])?.success()?;
        let read = reading.wait_with_output()?;
        ensure!(String::from_utf8_lossy(&read.stderr).contains("CANCELLED"), "{read:?}");
        // The suite checks that nothing is left, and that the node is idle: neither drained nor completing.
        clean::wait_for_steps(cluster, NODE)?;
        let state = cluster.slurm_state(NODE)?;
        ensure!(!state.contains("drain"), "{state}");
        Ok(())
    })
}

/// Waits until a process on the node waits for a disk, and for longer than reading takes.
fn wait_for_hung_reader(cluster: &Cluster) -> anyhow::Result<()> {
    let deadline = Instant::now() + TEST_TIMEOUT;
    let mut since: Option<(i32, Instant)> = None;
    loop {
        let hung = processes::on(cluster, NODE)?.into_iter().map(|process| process.pid).find(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'))
        });
        since = match (hung, since) {
            (Some(pid), Some((before, since))) if pid == before => Some((pid, since)),
            (hung, _) => hung.map(|pid| (pid, Instant::now())),
        };
        if since.is_some_and(|(_, since)| since.elapsed() > Duration::from_secs(2)) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "no process hangs");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Starts a step that reads all of the image on a node.
pub(super) fn start_reading(cluster: &Cluster, node: &str) -> anyhow::Result<Child> {
    let read = ["srun", "-w", node, "--parallax-image=python", "sh", "-c", READ_ALL];
    Ok(cluster.command("ctl", "u1", &read).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

/// Waits for a step of [`start_reading`], which must have read what `expected` says.
pub(super) fn end_reading(reading: Child, expected: &str) -> anyhow::Result<()> {
    let read = reading.wait_with_output()?;
    ensure!(read.status.success(), "{read:?}");
    ensure!(String::from_utf8_lossy(&read.stdout) == expected, "{read:?}, not {expected:?}");
    Ok(())
}

/// The digest of all files of the image, read on a node that does not know of chunks.
pub(super) fn expected(cluster: &Cluster, node: &str) -> anyhow::Result<String> {
    Ok(cluster.srun("u1", &["-w", node, "--parallax-image=python", "sh", "-c", READ_ALL])?.success()?.stdout)
}

/// One after the other, as a package manager and systemd do it, while readers wait.
fn a_step_reads_on_while_the_worker_and_the_agent_are_upgraded(cluster: &Cluster) -> anyhow::Result<()> {
    let expected = expected(cluster, "n2")?;
    with_chunks(cluster, false, || {
        let [chunk, aside] = take_a_chunk(cluster)?;
        let mut service = LazyService::start(cluster, NODE)?;
        let step = HeldStep::start(cluster, "u1", &["-w", NODE, "--parallax-image=python"], 1, "echo begun")?;
        let reading = start_reading(cluster, NODE)?;
        wait_for_text(&cluster.path_on(NODE, "/run/lazy/log")?, 0, "readers wait")?;
        let agent = cluster.state().join(format!("log/{NODE}-agent.log"));
        let upgrade_worker = |service: &mut LazyService| {
            let from = fs::read(&agent)?.len();
            service.upgrade()?;
            wait_for_text(&agent, from, "layer served by another worker")
        };
        upgrade_worker(&mut service)?;
        let from = fs::read(&agent)?.len();
        let program = "/usr/sbin/parallax-agent";
        cluster.shell(NODE, &format!("cp --preserve {program} {program}.new && mv {program}.new {program}"))?;
        cluster.service(NODE, "stop", "agent")?;
        cluster.service(NODE, "start", "agent")?;
        wait_for_text(&agent, from, "layer adopted from an earlier agent")?;
        upgrade_worker(&mut service)?;
        fs::rename(aside, chunk)?;
        end_reading(reading, &expected)?;
        wait_until_complete(cluster, CACHE, 5)?;
        step.finish()
    })
}

/// What the cache has when the power goes is used, and the rest fetched: by the next start of the node nothing is known of the layers.
fn after_a_power_cut_the_cache_is_used_and_nothing_is_left(cluster: &Cluster) -> anyhow::Result<()> {
    let config = format!("{}timeout = 600\n", CONFIG.replace("/run/lazy/cache", KEPT_CACHE));
    let expected = expected(cluster, "n2")?;
    let result = publish(cluster, false).and_then(|()| {
        let [chunk, aside] = take_a_chunk(cluster)?;
        let cut = cut_the_power_while_a_layer_arrives(cluster, &config);
        if cut.is_err() {
            // The node has its usual configuration again.
            let _ = cluster.power(NODE, "off");
            cluster.power(NODE, "on")?;
        }
        cut?;
        fs::rename(aside, chunk)?;
        with_config(cluster, NODE, &config, || {
            let _service = LazyService::start_with_cache(cluster, NODE, KEPT_CACHE)?;
            let step = HeldStep::start(cluster, "u1", &["-w", NODE, "--parallax-image=python"], 1, "echo begun")?;
            end_reading(start_reading(cluster, NODE)?, &expected)?;
            wait_until_complete(cluster, KEPT_CACHE, 5)?;
            let status = cluster.shell(NODE, "parallax status --lazy --json")?;
            let status: Value = serde_json::from_str(&status)?;
            let fetched = status.pointer("/sources/0/chunks").and_then(Value::as_u64).context("no chunks")?;
            let largest = largest_index(cluster)?.parts().len() as u64;
            ensure!(
                (1..=largest).contains(&fetched),
                "{fetched} chunks were fetched, and one layer of {largest} was incomplete"
            );
            step.finish()
        })
    });
    cluster.shell("ctl", &format!("rm -rf /shared/lazy {KEPT_CACHE}"))?;
    result
}

/// Cuts the power of the node when all layers but one are complete, and a reader waits for that one; and boots the node.
fn cut_the_power_while_a_layer_arrives(cluster: &Cluster, config: &str) -> anyhow::Result<()> {
    fs::write(cluster.path_on(NODE, "/etc/parallax/parallax.toml")?, config)?;
    cluster.service(NODE, "stop", "agent")?;
    cluster.service(NODE, "start", "agent")?;
    let _service = LazyService::start_with_cache(cluster, NODE, KEPT_CACHE)?;
    let reading = start_reading(cluster, NODE)?;
    wait_for_text(&cluster.path_on(NODE, "/run/lazy/log")?, 0, "readers wait")?;
    wait_until_complete(cluster, KEPT_CACHE, 4)?;
    cluster.power(NODE, "off")?;
    cluster.power(NODE, "on")?;
    let read = reading.wait_with_output()?;
    ensure!(!read.status.success(), "the step survived: {read:?}");
    Ok(())
}
