//! Faults while a step's container is made.

use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::Context as _;
use integration_tests::cluster::{Cluster, Done};

use super::{failed_saying, failed_saying_once, faults, with_config};

faults! { Cluster:
    the_task_that_makes_the_container_is_killed = "the first task killed while it makes the container",
    the_others_are_told_at_once_of_a_killed_podman = "Podman killed while it makes the container",
    an_interrupt = "Ctrl-C during the start",
    a_cancelled_start = "scancel during the start",
    a_podman_that_hangs = "podman hangs",
}

/// A Podman on n1 that says by a FIFO that it runs, and then waits for ever.
struct HangingPodman {
    fifo: PathBuf,
    program: PathBuf,
}

impl HangingPodman {
    const PATH: &str = "/usr/local/bin/hanging-podman";

    fn install(cluster: &Cluster) -> anyhow::Result<Self> {
        let fifo = cluster.home("u1").join("podman-runs");
        cluster.run("n1", "u1", &["mkfifo", "podman-runs"])?.success()?;
        let hanging = Self { fifo, program: cluster.path_on("n1", Self::PATH)? };
        fs::write(&hanging.program, "#!/bin/sh\necho > /home/u1/podman-runs\nexec tail -f /dev/null\n")?;
        fs::set_permissions(&hanging.program, Permissions::from_mode(0o755))?;
        Ok(hanging)
    }

    /// Waits until it was called.
    fn wait_for_call(&self) -> anyhow::Result<()> {
        let mut line = [0];
        File::open(&self.fifo)?.read_exact(&mut line).context("Podman was not called")
    }
}

impl Drop for HangingPodman {
    fn drop(&mut self) {
        for file in [&self.fifo, &self.program] {
            if let Err(error) = fs::remove_file(file) {
                eprintln!("{}: {error}", file.display());
            }
        }
    }
}

/// Starts a step of four tasks whose Podman hangs, and `timeout` seconds to make its container; `act` does something to it
/// when Podman is called.
fn while_podman_hangs(
    cluster: &Cluster,
    timeout: u32,
    act: impl FnOnce(&str) -> anyhow::Result<()>,
    judge: impl FnOnce(&Done) -> anyhow::Result<String>,
) -> anyhow::Result<String> {
    let podman = HangingPodman::install(cluster)?;
    let config = format!(
        "stores = [\"/shared/store\"]\n[step]\nstart_timeout = {timeout}\n[run]\npodman = \"{}\"\n",
        HangingPodman::PATH
    );
    with_config(cluster, &config, || {
        let srun = start(cluster)?;
        podman.wait_for_call()?;
        let job = cluster.run("ctl", "u1", &["squeue", "--noheader", "--me", "--format=%A"])?.success()?.stdout;
        act(job.trim())?;
        judge(&Done::from(srun.wait_with_output()?))
    })
}

fn start(cluster: &Cluster) -> anyhow::Result<Child> {
    let arguments = ["timeout", "--foreground", "100", "srun", "-w", "n1", "-n4", "--parallax-image=debian", "true"];
    let mut srun = cluster.command("ctl", "u1", &arguments);
    Ok(srun.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

fn the_task_that_makes_the_container_is_killed(cluster: &Cluster) -> anyhow::Result<String> {
    // The parent of the hanging Podman is the task. The others do not wait for the ten minutes.
    let kill = |_: &str| cluster.shell("n1", "kill -KILL $(ps -o ppid= -p $(pgrep -u u1 -x tail))").map(drop);
    while_podman_hangs(cluster, 600, kill, |done| failed_saying_once(done, &["was ended before it was done"]))
}

fn the_others_are_told_at_once_of_a_killed_podman(cluster: &Cluster) -> anyhow::Result<String> {
    let kill = |_: &str| cluster.shell("n1", "kill -KILL $(pgrep -u u1 -x tail)").map(drop);
    while_podman_hangs(cluster, 600, kill, |done| failed_saying_once(done, &["hanging-podman failed", "signal: 9"]))
}

fn an_interrupt(cluster: &Cluster) -> anyhow::Result<String> {
    // Ctrl-C twice, as a person would.
    let interrupt = |_: &str| cluster.shell("ctl", "pkill -INT -u u1 -x srun; pkill -INT -u u1 -x srun").map(drop);
    while_podman_hangs(cluster, 600, interrupt, |done| failed_saying(done, &["sending Ctrl-C"]))
}

fn a_cancelled_start(cluster: &Cluster) -> anyhow::Result<String> {
    let cancel = |job: &str| cluster.run("ctl", "u1", &["scancel", job])?.success().map(drop);
    while_podman_hangs(cluster, 600, cancel, |done| failed_saying(done, &["CANCELLED"]))
}

fn a_podman_that_hangs(cluster: &Cluster) -> anyhow::Result<String> {
    while_podman_hangs(cluster, 2, |_| Ok(()), |done| failed_saying_once(done, &["took too long"]))
}
