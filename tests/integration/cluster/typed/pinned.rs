//! What a name meant at submission holds within the job, and in no other.

use anyhow::{Context as _, ensure};
use integration_tests::clean::wait_for_steps;
use integration_tests::cluster::Cluster;

use super::{batch_output, put};

tests! { cluster:
    a_name_means_one_image_throughout_a_job,
    a_job_submitted_from_a_job_asks_for_itself,
    an_id_of_another_job_is_not_used,
    tasks_are_told_their_image_and_jobs_of_theirs_are_not,
    a_requeued_job_runs_the_same_image,
}

/// What is in `python` alone.
const TOOL: &str = "/opt/tool";

/// Makes the name `pinned` mean one of the test images.
fn name(cluster: &Cluster, image: &str) -> anyhow::Result<()> {
    let source = format!("oci:/images/{image}");
    cluster.run("ctl", "root", &["parallax", "migrate", &source, "--name", "pinned"])?.success().map(drop)
}

/// Submits a batch script while `pinned` means `python`, and runs it when that means `debian`; returns what it wrote.
fn submitted_before_it_moves(cluster: &Cluster, script: &str) -> anyhow::Result<String> {
    name(cluster, "python")?;
    put(cluster, "pinned.sh", script.as_bytes())?;
    let submit = ["sbatch", "--parsable", "--hold", "--output=pinned.out", "pinned.sh"];
    let job = cluster.run("ctl", "u1", &submit)?.success()?.stdout.trim().to_owned();
    name(cluster, "debian")?;
    cluster.shell("ctl", &format!("scontrol release {job}"))?;
    // It ends when the job has ended.
    let after = ["srun", "-n1", &format!("--dependency=afterany:{job}"), "true"];
    cluster.run("ctl", "u1", &after)?.success()?;
    Ok(std::fs::read_to_string(cluster.home("u1").join("pinned.out"))?)
}

fn a_name_means_one_image_throughout_a_job(cluster: &Cluster) -> anyhow::Result<()> {
    let script = format!(
        "#!/bin/bash\n#SBATCH -N2 -n2 --parallax-image=pinned\n\
         srun test -e {TOOL} && echo inherited\n\
         srun --parallax-image=pinned test -e {TOOL} && echo said\n\
         srun --export=NONE /usr/bin/test -e {TOOL} && echo exported nothing\n\
         podman run --rm --entrypoint '' pinned test -e {TOOL} && echo in podman\n\
         srun -N1 -n1 --parallax-mode=podman srun --overlap -N1 -n1 --parallax-mode=run test -e {TOOL} && echo nested\n"
    );
    let written = submitted_before_it_moves(cluster, &script)?;
    for line in ["inherited", "said", "exported nothing", "in podman", "nested"] {
        ensure!(written.lines().any(|written| written == line), "not {line:?}: {written}");
    }
    // A new job gets what the name means now.
    cluster.srun("u1", &["--parallax-image=pinned", "test", "!", "-e", TOOL])?.success().map(drop)
}

fn a_job_submitted_from_a_job_asks_for_itself(cluster: &Cluster) -> anyhow::Result<()> {
    let inner = format!(
        "#!/bin/bash\necho image: ${{SLURM_SPANK__SLURM_SPANK_OPTION_parallax_parallax_image-none}}\n\
         srun sh -c 'if test -e /usr/sbin/slurmd; then echo on the node; elif test -e {TOOL}; then echo in python; else \
         echo in debian; fi'\n"
    );
    put(cluster, "inner.sh", inner.as_bytes())?;
    let directive = inner.replace("#!/bin/bash\n", "#!/bin/bash\n#SBATCH --parallax-image=pinned\n");
    put(cluster, "directive.sh", directive.as_bytes())?;
    let submit = "sbatch --wait -N1 -n1 --output=inner.out";
    let script = format!(
        "#!/bin/bash\n#SBATCH -N1 -n1 --parallax-image=pinned\n\
         srun test -e {TOOL} && echo pinned\n\
         {submit} inner.sh && cat inner.out\n\
         {submit} directive.sh && cat inner.out\n\
         salloc -Q -N1 -n1 sh -c 'srun test -e /usr/sbin/slurmd && echo allocated on the node'\n\
         env --unset=SLURM_JOB_ID srun -Q -N1 -n1 test -e /usr/sbin/slurmd && echo a new job on the node\n\
         srun -n1 test -e {TOOL} && echo still pinned\n"
    );
    let written = submitted_before_it_moves(cluster, &script)?;
    let lines: Vec<&str> =
        written.lines().filter(|line| !line.starts_with("Submitted") && !line.contains("parallax: ")).collect();
    let expected = [
        "pinned",
        "image: none",
        "on the node",
        "image: pinned",
        "in debian",
        "allocated on the node",
        "a new job on the node",
        "still pinned",
    ];
    ensure!(lines == expected, "{written}");
    Ok(())
}

/// A variable from elsewhere: of another job, or of none.
fn an_id_of_another_job_is_not_used(cluster: &Cluster) -> anyhow::Result<()> {
    let id = cluster.shell("ctl", "readlink /shared/store/parallax/names/localhost%2Fpython:latest")?;
    let id = id.trim().trim_start_matches("../images/").trim_end_matches(".json");
    for pin in [format!("- debian {id}"), format!("1 debian {id}"), format!("x debian {id} y"), format!("debian {id}")]
    {
        for name in ["SLURM_PARALLAX_PIN", "PARALLAX_RESOLVED"] {
            let variable = format!("{name}={pin}");
            let line = ["env", &variable, "srun", "--parallax-image=debian", "test", "!", "-e", TOOL];
            cluster.run("ctl", "u1", &line)?.success()?;
            let batch = format!("test -z \"$PARALLAX_RESOLVED\" && srun test ! -e {TOOL}");
            let line = ["env", &variable, "sbatch", "--wait", "--parallax-image=debian", "--wrap", &batch];
            if name == "SLURM_PARALLAX_PIN" {
                cluster.run("ctl", "u1", &line)?.success()?;
            }
        }
    }
    Ok(())
}

/// Both variables are told by the node; what a job submitted from it or a user puts there is removed.
fn tasks_are_told_their_image_and_jobs_of_theirs_are_not(cluster: &Cluster) -> anyhow::Result<()> {
    let listed = cluster.run("ctl", "root", &["parallax", "list", "--json"])?.success()?.stdout;
    let show = "echo $PARALLAX_IMAGE_ID $PARALLAX_IMAGE_DIGEST";
    let script = format!(
        "#!/bin/bash\n#SBATCH -w n1 --parallax-image=debian\n{show}\nsrun -Q sh -c '{show}'\n\
         srun -Q --parallax-image=tiny --parallax-mode=podman sh -c '{show}'\n\
         PARALLAX_IMAGE_ID=forged srun -Q sh -c '{show}'\n\
         srun -Q --parallax-image=none sh -c '{show}'\n\
         sbatch -Q --wait -w n2 -o own.out --wrap '{show}'\ncat own.out; rm own.out\n"
    );
    let said = batch_output(cluster, &script, &[])?;
    let lines: Vec<&str> = said.lines().collect();
    let [script, step, podman, forged, "", ""] = lines[..] else { anyhow::bail!("{said}") };
    let (id, digest) = script.split_once(" sha256:").context("no digest")?;
    ensure!(id.len() == 64 && digest.len() == 64 && step == script && forged == script, "{said}");
    ensure!(podman != script && podman.split(' ').count() == 2, "another image is not told: {said}");
    for named in [id, digest] {
        ensure!(listed.contains(named), "{named} is not listed: {listed}");
    }
    Ok(())
}

/// The second run has the image of the first one, and nothing of the first one is left.
fn a_requeued_job_runs_the_same_image(cluster: &Cluster) -> anyhow::Result<()> {
    name(cluster, "python")?;
    let script = format!(
        "#!/bin/bash\n#SBATCH --requeue -w n1 -n1 --parallax-image=pinned --output=/dev/null\n\
         srun sh -c 'test -e {TOOL} && echo ${{SLURM_RESTART_COUNT:-0}} $PARALLAX_IMAGE_ID' >told\n\
         [ -n \"$SLURM_RESTART_COUNT\" ] || exec srun tail -f /dev/null\n"
    );
    put(cluster, "pinned.sh", script.as_bytes())?;
    cluster.run("ctl", "u1", &["mkfifo", "told"])?.success()?;
    let told = || cluster.run("ctl", "u1", &["cat", "told"]);
    let job = cluster.run("ctl", "u1", &["sbatch", "--parsable", "pinned.sh"])?.success()?.stdout.trim().to_owned();
    let first = told()?.stdout;
    name(cluster, "debian")?;
    cluster.run("ctl", "root", &["scontrol", "requeue", &job])?.success()?;
    wait_for_steps(cluster, "n1")?;
    let left = cluster.shell("n1", "ls /run/parallax/steps /run/parallax/leases; pgrep -x parallax-hold || true")?;
    // slurmd takes no credential of the second in which it revoked those of the job, and Slurm tells nobody when a job is cleared away.
    let release = format!(
        "now=$(date +%s); until [ $(date +%s) -gt $((now + 1)) ]; do :; done
         until squeue --noheader --jobs={job} --format=%T | grep -q RUNNING; do scontrol update JobId={job} StartTime=now || :; done"
    );
    cluster.run("ctl", "root", &["sh", "-c", &release])?.success()?;
    let second = told()?.stdout;
    let after = ["srun", "-n1", &format!("--dependency=afterany:{job}"), "true"];
    cluster.run("ctl", "u1", &after)?.success()?;
    cluster.run("ctl", "u1", &["rm", "told", "pinned.sh"])?.success()?;
    let id = first.strip_prefix("0 ").with_context(|| format!("not the first run: {first:?}"))?;
    ensure!(id.trim().len() == 64 && second == format!("1 {id}"), "{first:?} {second:?}");
    ensure!(left.lines().all(|line| line.is_empty() || line.ends_with(':')), "left of the first run: {left}");
    Ok(())
}
