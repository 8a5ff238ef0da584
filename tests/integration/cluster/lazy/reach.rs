//! What a container can do to the processes below its layers.

use anyhow::{Context as _, ensure};
use integration_tests::cluster::Cluster;
use integration_tests::lazy_service::LazyService;
use integration_tests::processes;

use super::{NODE, with_chunks};

tests! { cluster:
    a_task_can_neither_end_nor_read_them,
    a_container_of_podman_does_not_see_them,
}

/// Those below layers in chunks.
const HELPERS: [&str; 2] = ["parallax-lazy", "parallax-agent"];

/// Tries to signal, trace and read each process of its arguments. Prints what succeeds.
const TRY: &str = r#"
import os, signal, sys
for pid in map(int, sys.argv[1:]):
    os.stat(f"/proc/{pid}")
    for number in (0, signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL):
        try:
            os.kill(pid, number)
            print("signal", pid, number)
        except PermissionError:
            pass
    for name in ("mem", "environ", "maps", "auxv", "syscall"):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                file.read(1)
            print("read", pid, name)
        except PermissionError:
            pass
    for name in ("root/", "cwd/", "fd", "fdinfo", "map_files", "ns/mnt", "exe"):
        try:
            os.listdir(f"/proc/{pid}/{name}") if not name.startswith(("ns", "exe")) else os.readlink(f"/proc/{pid}/{name}")
            print("look", pid, name)
        except PermissionError:
            pass
    for name in ("oom_score_adj", "comm", "timerslack_ns"):
        try:
            with open(f"/proc/{pid}/{name}", "r+") as file:
                file.write("0")
            print("write", pid, name)
        except PermissionError:
            pass
with open("/proc/self/status") as file:
    print(*(line for line in file if line.startswith("CapEff")), sep="", end="")
"#;

fn helpers(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let all = processes::on(cluster, NODE)?;
    let found: Vec<String> = all
        .iter()
        .filter(|process| HELPERS.contains(&process.name.as_str()) && !process.zombie)
        .map(|process| process.node_pid.to_string())
        .collect();
    ensure!(found.len() >= HELPERS.len(), "{found:?}");
    Ok(found)
}

/// In run mode a container has the node's processes in its `/proc`, as any step: MPI needs them.
fn a_task_can_neither_end_nor_read_them(cluster: &Cluster) -> anyhow::Result<()> {
    with_chunks(cluster, false, || {
        let _service = LazyService::start(cluster, NODE)?;
        for (userns, capabilities) in [("keep-id", "0000000000000000"), ("root", "")] {
            let userns = format!("--parallax-userns={userns}");
            // Whoever serves has started then.
            cluster.srun("u1", &["-w", NODE, "--parallax-image=python", "true"])?.success()?;
            let helpers = helpers(cluster)?;
            let mut line = vec!["-w", NODE, "--parallax-image=python", &userns, "python3", "-c", TRY];
            line.extend(helpers.iter().map(String::as_str));
            let done = cluster.srun("u1", &line)?.success()?;
            let (found, ended) = done.stdout.split_once("CapEff:").context("no capabilities")?;
            ensure!(found.is_empty() && ended.trim().starts_with(capabilities), "{userns}: {done:?}");
            ensure!(self::helpers(cluster)? == helpers, "a helper has ended");
        }
        Ok(())
    })
}

fn a_container_of_podman_does_not_see_them(cluster: &Cluster) -> anyhow::Result<()> {
    let text = "cat /proc/[0-9]*/comm; test -e /dev/fuse && echo fuse; grep CapEff /proc/self/status";
    let run = format!("podman run --rm --entrypoint= --user=0 python sh -c '{text}'");
    let seen = |node| {
        let options = ["-w", node, "--parallax-image=python", "--parallax-mode=podman", "sh", "-c", &run];
        cluster.srun("u1", &options)?.success()
    };
    let expected = seen("n2")?.stdout;
    ensure!(expected.contains("sh\n") && expected.contains("CapEff:"), "{expected}");
    ensure!(!expected.contains("parallax") && !expected.contains("fuse"), "{expected}");
    with_chunks(cluster, false, || {
        let _service = LazyService::start(cluster, NODE)?;
        let found = seen(NODE)?.stdout;
        ensure!(found == expected, "{found}, not {expected}");
        Ok(())
    })
}
