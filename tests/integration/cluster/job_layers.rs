//! Where a site wants that, layers stay mounted between the steps of a job whose end the agent knows, and end with the job.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::chown;
use std::process::{Child, Stdio};

use anyhow::ensure;
use integration_tests::clean::{wait_for_no_layer, wait_for_no_lease};
use integration_tests::cluster::Cluster;

use super::backend::{STORE, with_config};

tests! { cluster:
    the_next_step_finds_them,
    they_end_with_a_job_that_is_cancelled,
    they_end_with_an_agent_and_its_successor_keeps_new_ones,
    other_users_jobs_have_their_own_rights,
    without_a_process_that_tells_the_jobs_end_nothing_is_kept,
    unless_the_site_wants_it_nothing_is_kept,
}

/// A batch job of u1's on n1 that does what it is told, a line each.
struct ToldJob<'a> {
    cluster: &'a Cluster,
    sbatch: Child,
    number: String,
}

impl<'a> ToldJob<'a> {
    fn start(cluster: &'a Cluster) -> anyhow::Result<Self> {
        let script = cluster.home("u1").join("told.sh");
        cluster.run("ctl", "u1", &["mkfifo", "told", "said"])?.success()?;
        let told = "echo $SLURM_JOB_ID >said; while read -r line <told; do eval \"$line\"; echo $? >said; done";
        fs::write(&script, format!("#!/bin/bash\n#SBATCH -w n1 -n2 -o /dev/null\n{told}\n"))?;
        chown(&script, Some(1001), Some(1001))?;
        let mut sbatch = cluster.command("ctl", "u1", &["sbatch", "--wait", "told.sh"]);
        let sbatch = sbatch.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut job = Self { cluster, sbatch, number: String::new() };
        job.number = job.said()?;
        Ok(job)
    }

    /// Runs a test with such a job, which ends whatever happens, where the site keeps its layers or does not.
    fn with(
        cluster: &'a Cluster,
        keeps: bool,
        test: impl FnOnce(&mut Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let run = || {
            let mut job = Self::start(cluster)?;
            let tested = test(&mut job);
            let _ = cluster.run("ctl", "u1", &["scancel", &job.number]);
            job.sbatch.wait()?;
            for file in ["told", "said", "told.sh"] {
                fs::remove_file(cluster.home("u1").join(file))?;
            }
            tested.and(wait_for_no_layer(cluster, "n1"))
        };
        if keeps { with_config(cluster, "n1", &format!("{STORE}[agent]\nkeep_for_job = true\n"), run) } else { run() }
    }

    fn said(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        fs::File::open(self.cluster.home("u1").join("said"))?.read_to_string(&mut text)?;
        Ok(text.trim().to_owned())
    }

    /// Has the job do something that succeeds, and waits until the agent has released its steps.
    fn does(&self, line: &str) -> anyhow::Result<()> {
        fs::OpenOptions::new()
            .write(true)
            .open(self.cluster.home("u1").join("told"))?
            .write_all(format!("{line}\n").as_bytes())?;
        let code = self.said()?;
        ensure!(code == "0", "\"{line}\" ended with {code}");
        wait_for_no_lease(self.cluster, "n1")
    }
}

const STEP: &str = "srun --parallax-image=debian true";

/// The layers that n1's agent has mounted, each with what tells its mount from an earlier one.
fn mounted(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let known = cluster.agent_status("n1")?.layers.len();
    let mounts =
        cluster.shell("n1", "awk '$5 ~ \"/run/parallax/layers/\" {print $1, $3, $5}' /proc/1/mountinfo | sort")?;
    let mounts: Vec<String> = mounts.lines().map(ToOwned::to_owned).collect();
    ensure!(mounts.len() == known, "the agent knows {known} layers: {mounts:?}");
    Ok(mounts)
}

fn the_next_step_finds_them(cluster: &Cluster) -> anyhow::Result<()> {
    ToldJob::with(cluster, true, |job| {
        job.does(STEP)?;
        let first = mounted(cluster)?;
        ensure!(!first.is_empty(), "nothing is kept");
        job.does(STEP)?;
        job.does("srun -n2 --parallax-image=debian --parallax-userns=root true")?;
        ensure!(mounted(cluster)? == first, "mounted anew: {first:?}");
        // Those of another image come in addition.
        job.does("srun --parallax-image=python true")?;
        let both = mounted(cluster)?;
        ensure!(both.len() > first.len() && first.iter().all(|layer| both.contains(layer)), "{first:?} {both:?}");
        Ok(())
    })?;
    wait_for_no_layer(cluster, "n1")
}

fn they_end_with_a_job_that_is_cancelled(cluster: &Cluster) -> anyhow::Result<()> {
    ToldJob::with(cluster, true, |job| {
        job.does(STEP)?;
        ensure!(!mounted(cluster)?.is_empty(), "nothing is kept");
        cluster.run("ctl", "u1", &["scancel", "--signal=KILL", "--full", &job.number])?.success()?;
        job.sbatch.wait()?;
        wait_for_no_layer(cluster, "n1")
    })
}

fn they_end_with_an_agent_and_its_successor_keeps_new_ones(cluster: &Cluster) -> anyhow::Result<()> {
    ToldJob::with(cluster, true, |job| {
        job.does(STEP)?;
        let first = mounted(cluster)?;
        cluster.service("n1", "stop", "agent")?;
        cluster.service("n1", "start", "agent")?;
        ensure!(mounted(cluster)?.is_empty(), "an agent that stops keeps layers");
        job.does(STEP)?;
        let second = mounted(cluster)?;
        ensure!(second.len() == first.len(), "{first:?} {second:?}");
        cluster.shell("n1", "agent=$(pgrep -x parallax-agent); kill -9 $agent; tail --pid=$agent -f /dev/null")?;
        cluster.service("n1", "start", "agent")?;
        // What the killed one had is nobody's now.
        wait_for_no_layer(cluster, "n1")?;
        job.does(STEP)?;
        ensure!(!mounted(cluster)?.is_empty(), "nothing is kept any more");
        Ok(())
    })?;
    wait_for_no_layer(cluster, "n1")
}

/// A job's layers are no way around a store's access rights.
fn other_users_jobs_have_their_own_rights(cluster: &Cluster) -> anyhow::Result<()> {
    ToldJob::with(cluster, true, |job| {
        job.does(STEP)?;
        let kept = mounted(cluster)?;
        ensure!(!kept.is_empty(), "nothing is kept");
        let step = || cluster.srun("u2", &["-w", "n1", "--overlap", "--parallax-image=debian", "true"]);
        step()?.success()?;
        wait_for_no_lease(cluster, "n1")?;
        ensure!(mounted(cluster)? == kept, "the job's layers ended with another's step");
        cluster.shell("ctl", "chmod o-rx /shared/store/parallax/layers")?;
        let refused = step();
        cluster.shell("ctl", "chmod o+rx /shared/store/parallax/layers")?;
        let refused = refused?;
        ensure!(refused.code != 0 && refused.stderr.contains("permission denied"), "{refused:?}");
        Ok(())
    })
}

fn without_a_process_that_tells_the_jobs_end_nothing_is_kept(cluster: &Cluster) -> anyhow::Result<()> {
    // salloc's shell is on another host, and Slurm starts no extern step here.
    let line = format!("{STEP}; {STEP}");
    with_config(cluster, "n1", &format!("{STORE}[agent]\nkeep_for_job = true\n"), || {
        cluster.run("ctl", "u1", &["salloc", "--quiet", "-w", "n1", "bash", "-c", &line])?.success()?;
        wait_for_no_lease(cluster, "n1")?;
        ensure!(mounted(cluster)?.is_empty(), "{:?}", mounted(cluster)?);
        Ok(())
    })
}

fn unless_the_site_wants_it_nothing_is_kept(cluster: &Cluster) -> anyhow::Result<()> {
    ToldJob::with(cluster, false, |job| {
        job.does(STEP)?;
        ensure!(mounted(cluster)?.is_empty(), "{:?}", mounted(cluster)?);
        Ok(())
    })
}
