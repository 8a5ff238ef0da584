//! Faults of the agent.

use anyhow::{Context as _, ensure};
use integration_tests::clean::wait_for_no_lease;
use integration_tests::cluster::Cluster;
use integration_tests::held::HeldStep;
use integration_tests::processes;

use super::{CONFIG, failed_saying_once, faults, said, with_file};

faults! { Cluster:
    killed_with_steps_running = "kill -9 of the agent with steps running",
    killed_with_slurmstepd = "kill -9 of the agent and of slurmstepd",
    killed_with_other_slurmstepds = "kill -9 of the agent and of slurmstepds whose steps share layers with one that lives",
    stopped_at_the_start = "agent stopped (SIGSTOP) at a step's start",
    stopped_at_the_end = "agent stopped (SIGSTOP) at a step's end",
    absent_at_the_start = "agent absent at a step's start",
    absent_at_the_end = "agent absent at a step's end",
}

/// Deadlines short enough for a test to wait for.
const SHORT: &str = "stores = [\"/shared/store\"]\n[step]\nstart_timeout = 2\nend_timeout = 2\n";

const ON_N1: [&str; 4] = ["-w", "n1", "-n2", "--parallax-image=python"];

fn held(cluster: &Cluster) -> anyhow::Result<HeldStep> {
    HeldStep::start(cluster, "u1", &ON_N1, 2, "echo $SLURM_JOB_ID")
}

fn killed_with_steps_running(cluster: &Cluster) -> anyhow::Result<String> {
    let step = held(cluster)?;
    processes::kill(cluster, "n1", "parallax-agent")?;
    cluster.service("n1", "start", "agent")?;
    let status = cluster.agent_status("n1")?;
    ensure!(status.steps.len() == 1 && status.layers.len() == 5, "not adopted: {status:?}");
    // A second step shares the layers that were adopted.
    cluster.srun("u1", &["-w", "n1", "--overlap", "--parallax-image=python", "true"])?.success()?;
    ensure!(cluster.agent_status("n1")?.layers.len() == 5, "the layers are gone with the second step");
    step.finish()?;
    Ok("nothing: the step goes on and ends well".to_owned())
}

fn killed_with_slurmstepd(cluster: &Cluster) -> anyhow::Result<String> {
    let step = held(cluster)?;
    let job = step.lines[0].clone();
    processes::kill(cluster, "n1", "parallax-agent")?;
    processes::kill(cluster, "n1", "slurmstepd")?;
    cluster.service("n1", "start", "agent")?;
    // The agent is ready before it has taken down what is left.
    wait_for_no_lease(cluster, "n1")?;
    let status = cluster.agent_status("n1")?;
    cluster.run("ctl", "root", &["scancel", &job])?.success()?;
    let done = step.wait()?;
    ensure!(status.steps.is_empty() && status.layers.is_empty(), "not cleared: {status:?}");
    said(&done, &["Job step aborted"])
}

fn killed_with_other_slurmstepds(cluster: &Cluster) -> anyhow::Result<String> {
    let start = |image: &str| {
        let image = format!("--parallax-image={image}");
        HeldStep::start(cluster, "u1", &["-w", "n1", "--overlap", &image], 1, "echo $SLURM_JOB_ID $PPID")
    };
    // All have the layer of debian. In whatever order the next agent finds them, a dead one comes before the one that lives.
    let (first, living, last) = (start("debian")?, start("python")?, start("debian")?);
    processes::kill(cluster, "n1", "parallax-agent")?;
    let dead: Vec<(&str, &str)> = [&first, &last].iter().filter_map(|step| step.lines[0].split_once(' ')).collect();
    for (_, slurmstepd) in &dead {
        cluster.shell("n1", &format!("kill -KILL {slurmstepd}"))?;
    }
    cluster.service("n1", "start", "agent")?;
    let status = cluster.agent_status("n1")?;
    let new = cluster.srun("u1", &["-w", "n1", "--overlap", "--parallax-image=python", "true"]);
    for (job, _) in &dead {
        cluster.run("ctl", "root", &["scancel", job])?.success()?;
    }
    let seen = said(&first.wait()?, &["Job step aborted"])?;
    said(&last.wait()?, &["Job step aborted"])?;
    living.finish()?;
    ensure!(status.steps.len() == 1 && status.layers.len() == 5, "not adopted: {status:?}");
    new?.success().context("a new step with the layers that were adopted")?;
    Ok(format!("the killed steps: {seen}; the other: nothing"))
}

/// Runs `body` while the agent of n1 is stopped.
fn while_stopped<T>(cluster: &Cluster, body: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    cluster.shell("n1", "kill -STOP $(pidof parallax-agent)")?;
    let result = body();
    cluster.shell("n1", "kill -CONT $(pidof parallax-agent)")?;
    result
}

fn stopped_at_the_start(cluster: &Cluster) -> anyhow::Result<String> {
    let mut seen = String::new();
    with_file(cluster, "n1", CONFIG, Some(SHORT), || {
        let done = while_stopped(cluster, || cluster.srun("u1", &[&ON_N1[..], &["true"]].concat()))?;
        seen = failed_saying_once(&done, &["no answer in time", "tell the administrator"])?;
        Ok(())
    })?;
    Ok(seen)
}

fn stopped_at_the_end(cluster: &Cluster) -> anyhow::Result<String> {
    with_file(cluster, "n1", CONFIG, Some(SHORT), || {
        let step = held(cluster)?;
        while_stopped(cluster, || step.finish())
    })?;
    Ok("nothing: the step ends well, the agent takes it down when it can".to_owned())
}

fn absent_at_the_start(cluster: &Cluster) -> anyhow::Result<String> {
    cluster.service("n1", "stop", "agent")?;
    let failed = cluster.srun("u1", &[&ON_N1[..], &["true"]].concat());
    let plain = cluster.srun("u1", &["-w", "n1", "true"]);
    cluster.service("n1", "start", "agent")?;
    plain?.success()?;
    failed_saying_once(&failed?, &["agent is not running on this node", "tell the administrator"])
}

fn absent_at_the_end(cluster: &Cluster) -> anyhow::Result<String> {
    let step = held(cluster)?;
    processes::kill(cluster, "n1", "parallax-agent")?;
    let ended = step.finish();
    cluster.service("n1", "start", "agent")?;
    ended?;
    Ok("nothing: the step ends well, the next agent takes it down".to_owned())
}
