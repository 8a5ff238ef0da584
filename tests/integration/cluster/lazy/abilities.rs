//! Nodes that cannot mount layers from their chunks.

use anyhow::ensure;
use integration_tests::cluster::Cluster;
use integration_tests::held::HeldStep;
use integration_tests::lazy_service::LazyService;

use super::{CONFIG, NODE, publish, reason};
use crate::cluster::backend::{STORE, with_config};

tests! { cluster:
    without_fuse_whole_files_are_used_and_the_reason_told,
    without_fuse_an_image_in_chunks_only_is_refused_until_there_is_fuse,
}

/// The reason of a node whose `/dev/fuse` is another device.
const OBSTACLE: &str = "this node has no kernel SquashFS over files by FUSE: cannot make a file by FUSE: ";
/// Unmounts what hides `/dev/fuse`, which is a mount of the node itself.
const REVEAL: &str = "if [ \"$(stat --format %t:%T /dev/fuse)\" = 1:3 ]; then umount /dev/fuse; fi";

fn shell(cluster: &Cluster, text: &str) -> anyhow::Result<String> {
    cluster.shell(NODE, text)
}

/// Runs `body` with `parallax-lazy` on a node whose agent found no FUSE when it started.
fn without_fuse(cluster: &Cluster, whole: bool, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let result = publish(cluster, whole).and_then(|()| {
        shell(cluster, "mount --bind /dev/null /dev/fuse")?;
        let result = with_config(cluster, NODE, CONFIG, || {
            // It reads the configuration when it starts.
            let service = LazyService::start(cluster, NODE)?;
            let result = body();
            drop(service);
            shell(cluster, REVEAL)?;
            result
        });
        shell(cluster, REVEAL)?;
        result
    });
    cluster.shell("ctl", "rm -rf /shared/lazy")?;
    // Its agent finds FUSE again.
    with_config(cluster, NODE, STORE, || Ok(()))?;
    result
}

fn without_fuse_whole_files_are_used_and_the_reason_told(cluster: &Cluster) -> anyhow::Result<()> {
    without_fuse(cluster, true, || {
        let step = HeldStep::start(cluster, "u1", &["-w", NODE, "--parallax-image=python"], 1, "echo begun")?;
        let reason = reason(cluster)?;
        let expected = format!("; whole files instead of chunks: {OBSTACLE}");
        ensure!(reason.contains(&expected), "{reason}");
        step.finish()?;
        let node = shell(cluster, "parallax status --json")?;
        ensure!(
            node.contains("\"lazy-layers\"") && node.contains("\"failure\": \"cannot make a file by FUSE: "),
            "{node}"
        );
        let doctor = shell(cluster, "parallax doctor || true")?;
        ensure!(doctor.contains("no kernel SquashFS over files by FUSE: cannot make a file by FUSE: "), "{doctor}");
        let log = std::fs::read_to_string(cluster.state().join(format!("log/{NODE}-agent.log")))?;
        ensure!(log.contains("the layer is mounted from its whole file") && log.contains(OBSTACLE), "{log}");
        Ok(())
    })
}

fn without_fuse_an_image_in_chunks_only_is_refused_until_there_is_fuse(cluster: &Cluster) -> anyhow::Result<()> {
    without_fuse(cluster, false, || {
        let run = || cluster.srun("u1", &["-w", NODE, "--parallax-image=python", "true"]);
        let done = run()?;
        let expected = format!("the store has it in chunks only, and {OBSTACLE}");
        ensure!(done.code != 0 && done.stderr.contains(&expected), "{done:?}");
        shell(cluster, REVEAL)?;
        run()?.success()?;
        let abilities = shell(cluster, "parallax status --json")?;
        ensure!(!abilities.contains("cannot make a file by FUSE"), "{abilities}");
        Ok(())
    })
}
