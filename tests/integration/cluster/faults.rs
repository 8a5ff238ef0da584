//! Faults in the middle of a step's life. That nothing is left, and that the nodes are idle, is asserted after every test.

use std::fs;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use integration_tests::clean::NODES;
use integration_tests::cluster::{Cluster, repository};
use integration_tests::held::HeldStep;

use crate::OnCluster;
use crate::cluster::with_file;

pub const TESTS: &[(&str, OnCluster)] = &[
    ("cluster::faults::a_time_limit", a_time_limit),
    ("cluster::faults::a_task_that_is_killed", a_task_that_is_killed),
    ("cluster::faults::the_task_that_makes_the_container_is_killed", the_task_that_makes_the_container_is_killed),
    ("cluster::faults::an_interrupt_while_the_container_is_made", an_interrupt_while_the_container_is_made),
    ("cluster::faults::a_podman_that_hangs", a_podman_that_hangs),
    ("cluster::faults::an_agent_that_is_stopped", an_agent_that_is_stopped),
    ("cluster::faults::slurmd_is_started_anew", slurmd_is_started_anew),
    ("cluster::faults::a_requeued_job", a_requeued_job),
    ("cluster::faults::many_steps_at_once", many_steps_at_once),
];

const CONFIG: &str = "/etc/parallax/parallax.toml";

fn a_time_limit(cluster: &Cluster) -> anyhow::Result<()> {
    // Slurm counts whole minutes, so the limit is drawn in when the step runs.
    let step = HeldStep::start(cluster, "u1", &["-N2", "-n2", "--parallax-image=debian"], 2, "echo $SLURM_JOB_ID")?;
    let job = format!("JobId={}", step.lines[0]);
    cluster.run("ctl", "root", &["scontrol", "update", &job, "TimeLimit=0:00"])?;
    let done = step.wait()?;
    ensure!(done.code != 0 && done.stderr.contains("DUE TO TIME LIMIT"), "{done:?}");
    Ok(())
}

fn a_task_that_is_killed(cluster: &Cluster) -> anyhow::Result<()> {
    // What the kernel does to a task that is out of memory.
    let script = "if [ $SLURM_PROCID = 1 ]; then kill -KILL $$; fi; echo survived";
    let done = cluster.srun("u1", &["-N1", "-n3", "--parallax-image=debian", "sh", "-c", script])?;
    ensure!(done.code != 0 && done.stdout.matches("survived").count() == 2, "{done:?}");
    Ok(())
}

/// Runs `body` while the agent of n1 has steps use a Podman that says so by a FIFO and then waits for ever.
fn with_hanging_podman(
    cluster: &Cluster,
    timeout: u32,
    body: impl FnOnce(&mut dyn FnMut() -> anyhow::Result<()>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let fifo: PathBuf = repository().join("target/cluster/state/home/u1/podman-runs");
    cluster.run("n1", "u1", &["mkfifo", "podman-runs"])?.success()?;
    let podman = "#!/bin/sh\necho > /home/u1/podman-runs\nexec tail -f /dev/null\n";
    let program = cluster.path_on("n1", "/usr/local/bin/hanging-podman")?;
    fs::write(&program, podman)?;
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let config = format!(
        "stores = [\"/shared/store\"]\n[step]\nstart_timeout = {timeout}\n[run]\npodman = \"/usr/local/bin/hanging-podman\"\n"
    );
    let result = with_file(cluster, "n1", CONFIG, Some(&config), || {
        cluster.service("n1", "stop", "agent")?;
        cluster.service("n1", "start", "agent")?;
        let mut wait = || {
            let mut line = [0];
            fs::File::open(&fifo)?.read_exact(&mut line).context("Podman was not called")
        };
        body(&mut wait)
    });
    fs::remove_file(&fifo)?;
    fs::remove_file(&program)?;
    cluster.service("n1", "stop", "agent")?;
    cluster.service("n1", "start", "agent")?;
    result
}

fn the_task_that_makes_the_container_is_killed(cluster: &Cluster) -> anyhow::Result<()> {
    with_hanging_podman(cluster, 600, |podman_runs| {
        let arguments = ["srun", "-w", "n1", "-n4", "--parallax-image=debian", "true"];
        let srun = cluster.command("ctl", "u1", &arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        podman_runs()?;
        // The parent of the hanging Podman is the task.
        cluster.shell("n1", "kill -KILL $(ps -o ppid= -p $(pgrep -u u1 -x tail))")?;
        let output = srun.wait_with_output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "it did not fail");
        ensure!(stderr.contains("was ended before it was done"), "{stderr}");
        Ok(())
    })
}

fn an_interrupt_while_the_container_is_made(cluster: &Cluster) -> anyhow::Result<()> {
    with_hanging_podman(cluster, 600, |podman_runs| {
        let arguments = ["srun", "-w", "n1", "-n2", "--parallax-image=debian", "true"];
        let srun = cluster.command("ctl", "u1", &arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        podman_runs()?;
        // Ctrl-C twice, as a person would.
        cluster.shell("ctl", "pkill -INT -u u1 -x srun; pkill -INT -u u1 -x srun")?;
        let output = srun.wait_with_output()?;
        ensure!(!output.status.success(), "it did not fail");
        Ok(())
    })
}

fn a_podman_that_hangs(cluster: &Cluster) -> anyhow::Result<()> {
    with_hanging_podman(cluster, 2, |podman_runs| {
        let arguments = ["srun", "-w", "n1", "-n3", "--parallax-image=debian", "true"];
        let srun = cluster.command("ctl", "u1", &arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        podman_runs()?;
        let output = srun.wait_with_output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "it did not fail");
        ensure!(stderr.matches("took too long").count() == 1, "{stderr}");
        Ok(())
    })
}

fn an_agent_that_is_stopped(cluster: &Cluster) -> anyhow::Result<()> {
    let config = "stores = [\"/shared/store\"]\n[step]\nstart_timeout = 2\nend_timeout = 2\n";
    with_file(cluster, "n1", CONFIG, Some(config), || {
        // At the end of a step: the step ends in time, and the agent takes it down when it can.
        let step = HeldStep::start(cluster, "u1", &["-w", "n1", "--parallax-image=debian"], 1, "echo started")?;
        cluster.shell("n1", "kill -STOP $(pidof parallax-agent)")?;
        let ended = step.finish();
        // At its start.
        let started = cluster.srun("u1", &["-w", "n1", "-n2", "--parallax-image=debian", "true"]);
        cluster.shell("n1", "kill -CONT $(pidof parallax-agent)")?;
        ended?;
        let started = started?;
        ensure!(started.code != 0 && started.stderr.contains("no answer in time"), "{started:?}");
        Ok(())
    })
}

fn slurmd_is_started_anew(cluster: &Cluster) -> anyhow::Result<()> {
    let step = HeldStep::start(cluster, "u1", &["-w", "n1", "--parallax-image=debian"], 1, "echo started")?;
    cluster.service("n1", "stop", "slurmd")?;
    cluster.service("n1", "start", "slurmd")?;
    ensure!(cluster.agent_status("n1")?.steps.len() == 1, "the step has lost its image");
    step.finish()
}

fn a_requeued_job(cluster: &Cluster) -> anyhow::Result<()> {
    let home = repository().join("target/cluster/state/home/u1");
    cluster.run("n1", "u1", &["mkfifo", "requeue"])?.success()?;
    // The step of the first run tells that it runs and then waits for its end; that of the second tells it and ends.
    let script = "#!/bin/bash\n#SBATCH --requeue --parallax-image=debian -w n1 --output=/dev/null\n\
                  srun sh -c 'echo $SLURM_RESTART_COUNT > requeue; test -n \"$SLURM_RESTART_COUNT\" || exec tail -f /dev/null'\n";
    fs::write(home.join("requeue.sh"), script)?;
    let job = cluster.run("ctl", "u1", &["sbatch", "--parsable", "requeue.sh"])?.success()?.stdout.trim().to_owned();
    let runs = || fs::read_to_string(home.join("requeue"));
    ensure!(runs()? == "\n", "not the first run");
    cluster.run("ctl", "root", &["scontrol", "requeue", &job])?.success()?;
    // Slurm holds a requeued job back for two minutes. It may be let go once its first run is cleared away, of which Slurm
    // tells nobody, so it is let go again and again until it runs.
    let release = format!(
        "until squeue --noheader --jobs={job} --format=%T | grep -q RUNNING; do scontrol update JobId={job} StartTime=now || :; done"
    );
    cluster.run("ctl", "root", &["sh", "-c", &release])?.success()?;
    ensure!(runs()? == "1\n", "not the second run");
    fs::remove_file(home.join("requeue"))?;
    Ok(())
}

/// Steps of several images, users and modes that start and stop at once on both nodes.
fn many_steps_at_once(cluster: &Cluster) -> anyhow::Result<()> {
    let steps: [(&str, &[&str]); 4] = [
        ("u1", &["--parallax-image=python", "python3", "-c", "print('fine')"]),
        ("u2", &["--parallax-image=debian", "echo", "fine"]),
        (
            "u1",
            &[
                "--parallax-image=layers40",
                "--parallax-mode=podman",
                "podman",
                "run",
                "--rm",
                "layers40",
                "echo",
                "fine",
            ],
        ),
        ("u2", &["--parallax-image=static", "--parallax-mode=podman", "echo", "fine"]),
    ];
    let mut running = Vec::new();
    for number in 0..32 {
        let (user, arguments) = steps[number % steps.len()];
        let mut line = vec!["srun", "-n1", "-w", NODES[(number / 2) % NODES.len()]];
        line.extend(arguments);
        running.push(cluster.command("ctl", user, &line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?);
    }
    for srun in running {
        let output = srun.wait_with_output()?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success() && stdout == "fine\n", "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
