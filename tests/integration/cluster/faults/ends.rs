//! The ends that a step can come to.

use std::fs;

use anyhow::ensure;
use integration_tests::clean::wait_for_steps;
use integration_tests::cluster::Cluster;
use integration_tests::held::HeldStep;
use integration_tests::memory_group::MemoryGroup;
use integration_tests::processes;

use super::{failed_saying, faults, said};

faults! { Cluster:
    a_cancelled_step = "scancel",
    a_time_limit = "time limit",
    a_killed_task = "a task killed by SIGKILL",
    a_task_out_of_memory = "a task killed by the kernel, out of memory",
    a_killed_slurmstepd = "kill -9 of slurmstepd",
    a_killed_holder = "kill -9 of the process that keeps the container",
    slurmd_is_started_anew = "slurmd restarted",
    a_requeued_job = "job requeued",
}

fn held(cluster: &Cluster) -> anyhow::Result<HeldStep> {
    let arguments = ["-N2", "-n4", "--ntasks-per-node=2", "--parallax-image=python"];
    HeldStep::start(cluster, "u1", &arguments, 4, "echo $SLURM_JOB_ID")
}

fn a_cancelled_step(cluster: &Cluster) -> anyhow::Result<String> {
    let step = held(cluster)?;
    let job = step.lines[0].clone();
    cluster.run("ctl", "u1", &["scancel", &job])?.success()?;
    failed_saying(&step.wait()?, &["CANCELLED"])
}

fn a_time_limit(cluster: &Cluster) -> anyhow::Result<String> {
    // Slurm counts whole minutes, so the limit is drawn in when the step runs.
    let step = HeldStep::start(cluster, "u1", &["-N2", "-n2", "--parallax-image=debian"], 2, "echo $SLURM_JOB_ID")?;
    let job = format!("JobId={}", step.lines[0]);
    cluster.run("ctl", "root", &["scontrol", "update", &job, "TimeLimit=0:00"])?;
    failed_saying(&step.wait()?, &["DUE TO TIME LIMIT"])
}

fn a_killed_task(cluster: &Cluster) -> anyhow::Result<String> {
    let script = "if [ $SLURM_PROCID = 1 ]; then kill -KILL $$; fi; echo survived";
    let done = cluster.srun("u1", &["-N1", "-n3", "--parallax-image=debian", "sh", "-c", script])?;
    ensure!(done.stdout.matches("survived").count() == 2, "{done:?}");
    failed_saying(&done, &["task 1", "Killed"])
}

fn a_task_out_of_memory(cluster: &Cluster) -> anyhow::Result<String> {
    let script = "echo $$; cat >/dev/null; exec python3 -c \"b'x' * (1 << 29)\"";
    let step = HeldStep::start(cluster, "u1", &["-w", "n1", "--parallax-image=python"], 1, script)?;
    let task = processes::machine_pid(cluster, "n1", step.lines[0].parse()?)?;
    let group = MemoryGroup::new(cluster, 64 << 20)?;
    group.add(task)?;
    failed_saying(&step.end()?, &["task 0", "Killed"])
}

fn a_killed_slurmstepd(cluster: &Cluster) -> anyhow::Result<String> {
    let step = held(cluster)?;
    let job = step.lines[0].clone();
    processes::kill(cluster, "n1", "slurmstepd")?;
    wait_for_steps(cluster, "n1")?;
    ensure!(cluster.agent_status("n1")?.steps.is_empty(), "the agent still has the step");
    cluster.run("ctl", "root", &["scancel", &job])?.success()?;
    // Whether srun counts that as a failure depends on how far Slurm has come.
    said(&step.wait()?, &["Job step aborted"])
}

fn a_killed_holder(cluster: &Cluster) -> anyhow::Result<String> {
    let step = held(cluster)?;
    processes::kill(cluster, "n1", "parallax-hold")?;
    let done = step.end()?.success()?;
    ensure!(!done.stderr.contains("parallax: "), "{done:?}");
    Ok("nothing: the tasks go on and end well".to_owned())
}

fn slurmd_is_started_anew(cluster: &Cluster) -> anyhow::Result<String> {
    let step = HeldStep::start(cluster, "u1", &["-w", "n1", "--parallax-image=debian"], 1, "echo started")?;
    cluster.service("n1", "stop", "slurmd")?;
    cluster.service("n1", "start", "slurmd")?;
    ensure!(cluster.agent_status("n1")?.steps.len() == 1, "the step has lost its image");
    step.finish()?;
    Ok("nothing: the step goes on and ends well".to_owned())
}

fn a_requeued_job(cluster: &Cluster) -> anyhow::Result<String> {
    let home = cluster.home("u1");
    cluster.run("n1", "u1", &["mkfifo", "requeue"])?.success()?;
    // The step of the first run tells that it runs and then waits for its end; that of the second tells it and ends.
    let script = "#!/bin/bash\n#SBATCH --requeue --parallax-image=debian -w n1 --output=requeued.out --open-mode=append\n\
                  srun sh -c 'echo $SLURM_RESTART_COUNT > requeue; test -n \"$SLURM_RESTART_COUNT\" || exec tail -f /dev/null'\n";
    fs::write(home.join("requeue.sh"), script)?;
    let job = cluster.run("ctl", "u1", &["sbatch", "--parsable", "requeue.sh"])?.success()?.stdout.trim().to_owned();
    let runs = || fs::read_to_string(home.join("requeue"));
    ensure!(runs()? == "\n", "not the first run");
    cluster.run("ctl", "root", &["scontrol", "requeue", &job])?.success()?;
    // Slurm holds a requeued job back for two minutes. It may be let go once its first run is cleared away, of which Slurm
    // tells nobody, so it is let go again and again until it runs.
    // Not within the second of the requeue: Slurm tells credentials of the first run, which it has revoked, from later ones by seconds.
    let release = format!(
        "now=$(date +%s); until [ $(date +%s) -gt $((now + 1)) ]; do :; done; \
         until squeue --noheader --jobs={job} --format=%T | grep -q RUNNING; do scontrol update JobId={job} StartTime=now || :; done"
    );
    cluster.run("ctl", "root", &["sh", "-c", &release])?.success()?;
    ensure!(runs()? == "1\n", "not the second run");
    fs::remove_file(home.join("requeue"))?;
    let output = cluster.run("ctl", "u1", &["sh", "-c", "cat requeued.out >&2; rm requeued.out requeue.sh"])?;
    said(&output, &["CANCELLED", "REQUEUE"])
}
