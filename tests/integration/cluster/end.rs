//! The end of a step, however it comes. That nothing is left is asserted after every test.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use integration_tests::clean::wait_for_steps;
use integration_tests::cluster::{Cluster, PATIENCE};
use integration_tests::held::HeldStep;
use parallax_sys::process::Process;

use crate::OnCluster;

pub const TESTS: &[(&str, OnCluster)] = &[
    ("cluster::end::a_cancelled_step", a_cancelled_step),
    ("cluster::end::a_killed_slurmstepd", a_killed_slurmstepd),
    ("cluster::end::an_agent_started_anew_keeps_live_steps", an_agent_started_anew_keeps_live_steps),
    ("cluster::end::an_agent_started_anew_clears_dead_steps", an_agent_started_anew_clears_dead_steps),
];

fn held(cluster: &Cluster) -> anyhow::Result<HeldStep> {
    let arguments = ["-N2", "-n4", "--ntasks-per-node=2", "--parallax-image=python"];
    HeldStep::start(cluster, "u1", &arguments, 4, "echo $SLURM_JOB_ID")
}

fn a_cancelled_step(cluster: &Cluster) -> anyhow::Result<()> {
    let step = held(cluster)?;
    let job = step.lines[0].clone();
    cluster.run("ctl", "u1", &["scancel", &job])?.success()?;
    let done = step.wait()?;
    ensure!(done.code != 0, "{done:?}");
    Ok(())
}

/// Kills every slurmstepd of a node and waits until they are gone.
fn kill_slurmstepd(cluster: &Cluster, node: &str) -> anyhow::Result<()> {
    // The machine's own number of a process on the node is the last but one that NSpid names.
    let script =
        "for p in /proc/[0-9]*; do test \"$(cat $p/comm 2>/dev/null)\" = slurmstepd && basename $p; done; true";
    for pid in cluster.shell(node, script)?.split_whitespace() {
        cluster.shell(node, &format!("kill -KILL {pid}"))?;
    }
    Ok(())
}

fn a_killed_slurmstepd(cluster: &Cluster) -> anyhow::Result<()> {
    let step = held(cluster)?;
    let job = step.lines[0].clone();
    kill_slurmstepd(cluster, "n1")?;
    wait_for_steps(cluster, "n1")?;
    ensure!(cluster.agent_status("n1")?.steps.is_empty(), "the agent still has the step");
    cluster.run("ctl", "root", &["scancel", &job])?.success()?;
    step.wait().map(drop)
}

fn an_agent_started_anew_keeps_live_steps(cluster: &Cluster) -> anyhow::Result<()> {
    let step = held(cluster)?;
    cluster.service("n1", "stop", "agent")?;
    cluster.service("n1", "start", "agent")?;
    let status = cluster.agent_status("n1")?;
    ensure!(status.steps.len() == 1 && status.layers.len() == 5, "not adopted: {status:?}");
    // A second step shares the layers that were adopted.
    cluster.srun("u1", &["-w", "n1", "--overlap", "--parallax-image=python", "true"])?.success()?;
    ensure!(cluster.agent_status("n1")?.layers.len() == 5, "the layers are gone with the second step");
    step.finish()
}

fn an_agent_started_anew_clears_dead_steps(cluster: &Cluster) -> anyhow::Result<()> {
    let step = held(cluster)?;
    let job = step.lines[0].clone();
    let agent = cluster.shell("n1", "pidof parallax-agent")?;
    let agent = Process::open(host_pid(cluster, "n1", agent.trim())?)?;
    agent.kill()?;
    let deadline = Instant::now() + PATIENCE;
    ensure!(agent.wait_until_ended(deadline.saturating_duration_since(Instant::now()))?, "the agent does not end");
    kill_slurmstepd(cluster, "n1")?;
    cluster.service("n1", "start", "agent")?;
    let status = cluster.agent_status("n1")?;
    cluster.run("ctl", "root", &["scancel", &job])?.success()?;
    step.wait()?;
    ensure!(status.steps.is_empty() && status.layers.is_empty(), "not cleared: {status:?}");
    Ok(())
}

/// The machine's own number of a process on a node.
fn host_pid(cluster: &Cluster, node: &str, pid: &str) -> anyhow::Result<i32> {
    let root = cluster.first_process(node)?;
    let children =
        std::fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let wanted = namespace(root).context("the node is gone")?;
    for candidate in children.filter(|&candidate| namespace(candidate).as_ref() == Some(&wanted)) {
        let status = std::fs::read_to_string(format!("/proc/{candidate}/status")).unwrap_or_default();
        let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
        if inner.split_whitespace().last() == Some(pid) {
            return Ok(candidate);
        }
    }
    anyhow::bail!("{node} has no process {pid}")
}
