//! Faults while a step's container is made: a mount program that hangs at it, as a file system may.

use std::fs::{self, File, Permissions};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use anyhow::Context as _;
use integration_tests::cluster::{Cluster, Done};

use super::{failed_saying, failed_saying_once, faults, with_config};

faults! { Cluster:
    the_task_that_makes_the_container_is_killed = "the first task killed while it makes the container",
    the_process_that_makes_the_container_is_killed = "the first task's child killed while it makes the container",
    the_others_are_told_at_once_of_a_killed_mount_program = "the mount program killed while the container is made",
    an_interrupt = "Ctrl-C during the start",
    a_cancelled_start = "scancel during the start",
    a_mount_program_that_hangs = "the mount program hangs",
}

/// A mount program on n1 that says by a FIFO that it runs for a step, and then waits for ever.
struct HangingProgram {
    fifo: PathBuf,
    program: PathBuf,
}

impl HangingProgram {
    const PATH: &str = "/usr/local/bin/hanging-mount-program";
    /// The agent's trials succeed.
    const SCRIPT: &str = r#"#!/bin/sh
        case "$*" in
        */steps/*) echo > /home/u1/mount-program-runs; exec tail -f /dev/null;;
        *) exec /usr/libexec/parallax/parallax-mount-program "$@";;
        esac
    "#;

    fn install(cluster: &Cluster) -> anyhow::Result<Self> {
        let fifo = cluster.home("u1").join("mount-program-runs");
        cluster.run("n1", "u1", &["mkfifo", "mount-program-runs"])?.success()?;
        let hanging = Self { fifo, program: cluster.path_on("n1", Self::PATH)? };
        fs::write(&hanging.program, Self::SCRIPT)?;
        fs::set_permissions(&hanging.program, Permissions::from_mode(0o755))?;
        Ok(hanging)
    }

    /// Waits until it was called.
    fn wait_for_call(&self) -> anyhow::Result<()> {
        let mut line = [0];
        File::open(&self.fifo)?.read_exact(&mut line).context("the mount program was not called")
    }
}

impl Drop for HangingProgram {
    fn drop(&mut self) {
        for file in [&self.fifo, &self.program] {
            if let Err(error) = fs::remove_file(file) {
                eprintln!("{}: {error}", file.display());
            }
        }
    }
}

/// Starts a step of four tasks whose mount program hangs, and `timeout` seconds to make its container; `act` does something to it
/// when the program is called.
fn while_it_hangs(
    cluster: &Cluster,
    timeout: u32,
    act: impl FnOnce(&str) -> anyhow::Result<()>,
    judge: impl FnOnce(&Done) -> anyhow::Result<String>,
) -> anyhow::Result<String> {
    end_while_it_hangs(cluster, timeout, |job, srun| {
        act(job)?;
        judge(&Done::from(srun.wait_with_output()?))
    })
}

/// The same; `end` gets the job's number and srun, waits for srun's end and judges it.
fn end_while_it_hangs(
    cluster: &Cluster,
    timeout: u32,
    end: impl FnOnce(&str, Child) -> anyhow::Result<String>,
) -> anyhow::Result<String> {
    let program = HangingProgram::install(cluster)?;
    let config = format!(
        "stores = [\"/shared/store\"]\n[agent]\nmounts = \"fuse\"\nmount_program = \"{}\"\n[step]\nstart_timeout = {timeout}\n",
        HangingProgram::PATH
    );
    with_config(cluster, &config, || {
        let srun = start(cluster)?;
        program.wait_for_call()?;
        let job = cluster.run("ctl", "u1", &["squeue", "--noheader", "--me", "--format=%A"])?.success()?.stdout;
        end(job.trim(), srun)
    })
}

fn start(cluster: &Cluster) -> anyhow::Result<Child> {
    let arguments = ["timeout", "--foreground", "100", "srun", "-w", "n1", "-n4", "--parallax-image=debian", "true"];
    let mut srun = cluster.command("ctl", "u1", &arguments);
    Ok(srun.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

/// The process that hangs, its parent, and the parent's parent: the mount program, the process that makes the container, the task.
const PROCESSES: &str =
    "program=$(pgrep -u u1 -x tail); maker=$(ps -o ppid= -p $program); task=$(ps -o ppid= -p $maker)";

fn kill(cluster: &Cluster, which: &str) -> anyhow::Result<()> {
    cluster.shell("n1", &format!("{PROCESSES}; kill -KILL ${which}")).map(drop)
}

fn the_task_that_makes_the_container_is_killed(cluster: &Cluster) -> anyhow::Result<String> {
    // The others do not wait for the ten minutes.
    let kill = |_: &str| kill(cluster, "task");
    while_it_hangs(cluster, 600, kill, |done| failed_saying_once(done, &["was ended before it was done"]))
}

fn the_process_that_makes_the_container_is_killed(cluster: &Cluster) -> anyhow::Result<String> {
    let kill = |_: &str| kill(cluster, "maker");
    let parts = ["cannot start the container", "signal: 9", "mounting the image"];
    while_it_hangs(cluster, 600, kill, |done| failed_saying_once(done, &parts))
}

fn the_others_are_told_at_once_of_a_killed_mount_program(cluster: &Cluster) -> anyhow::Result<String> {
    let kill = |_: &str| kill(cluster, "program");
    let parts = ["cannot mount the image", "hanging-mount-program failed", "signal: 9"];
    while_it_hangs(cluster, 600, kill, |done| failed_saying_once(done, &parts))
}

fn an_interrupt(cluster: &Cluster) -> anyhow::Result<String> {
    end_while_it_hangs(cluster, 600, |_, mut srun| {
        let interrupt = || cluster.shell("ctl", "pkill -INT -u u1 -x srun").map(drop);
        interrupt()?;
        // A person presses Ctrl-C again when srun asks for it. Two signals at once may reach srun as one.
        let mut said = String::new();
        for line in BufReader::new(srun.stderr.take().context("no stderr")?).lines() {
            let line = line?;
            if line.contains("one more within") {
                interrupt()?;
            }
            said.push_str(&line);
            said.push('\n');
        }
        let done = Done::from(srun.wait_with_output()?);
        failed_saying(&Done { stderr: said, ..done }, &["sending Ctrl-C"])
    })
}

fn a_cancelled_start(cluster: &Cluster) -> anyhow::Result<String> {
    let cancel = |job: &str| cluster.run("ctl", "u1", &["scancel", job])?.success().map(drop);
    while_it_hangs(cluster, 600, cancel, |done| failed_saying(done, &["CANCELLED"]))
}

fn a_mount_program_that_hangs(cluster: &Cluster) -> anyhow::Result<String> {
    let parts = ["took too long", "mounting the image", "tell the administrator"];
    while_it_hangs(cluster, 2, |_| Ok(()), |done| failed_saying_once(done, &parts))
}
