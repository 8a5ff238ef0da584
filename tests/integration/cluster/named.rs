//! Containers that the steps of a job share (`--parallax-name`), from the first step to the end of the job.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::chown;
use std::process::{Child, Stdio};

use anyhow::{Context as _, ensure};
use integration_tests::clean::wait_for_no_lease;
use integration_tests::cluster::{Cluster, Done};

tests! { cluster:
    steps_find_what_earlier_steps_wrote,
    two_steps_at_once_have_one_container,
    a_step_that_wants_another_container_is_refused,
    a_step_may_mount_more_for_itself,
    a_step_may_mount_more_where_the_root_is_read_only,
    a_step_may_name_the_container_alone,
    a_step_may_say_whether_it_must_be_there,
    a_step_that_cannot_make_it_leaves_it_to_the_next,
    root_installs_and_a_later_step_uses_it,
    directories_that_slurm_makes_for_each_step_are_shown,
    a_container_outlives_agents_and_ends_with_its_job,
    a_container_ends_with_a_job_that_is_cancelled,
    without_a_process_that_lasts_as_long_as_the_job_it_is_refused,
}

const NAMED: [&str; 2] = ["--parallax-image=debian", "--parallax-name=env"];
/// What tells whether two tasks are in one container.
const NAMESPACE: &str = "readlink /proc/self/ns/mnt";

/// Runs a batch script of u1's on n1 whose steps share a container. Its slurmstepd lasts as long as the job.
fn job(cluster: &Cluster, script: &str) -> anyhow::Result<(Done, String)> {
    job_with(cluster, &NAMED.join(" "), script)
}

/// The same, with other options.
pub(super) fn job_with(cluster: &Cluster, options: &str, script: &str) -> anyhow::Result<(Done, String)> {
    let home = cluster.home("u1");
    let file = home.join("named.sh");
    fs::write(
        &file,
        format!(
            "#!/bin/bash\n#SBATCH -w n1 -n2 {options} -o named.out\nalias srun='srun -Q'\nshopt -s expand_aliases\n{script}"
        ),
    )?;
    let done = cluster.run("ctl", "u1", &["sbatch", "--wait", "named.sh"])?;
    let said = fs::read_to_string(home.join("named.out")).unwrap_or_default();
    fs::remove_file(file)?;
    let _ = fs::remove_file(home.join("named.out"));
    Ok((done, said))
}

fn lines(cluster: &Cluster, script: &str) -> anyhow::Result<Vec<String>> {
    let (done, said) = job(cluster, script)?;
    done.success().with_context(|| said.clone())?;
    Ok(said.lines().map(ToOwned::to_owned).collect())
}

fn steps_find_what_earlier_steps_wrote(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "show='cat /var/tmp/written 2>/dev/null || echo nothing'\n\
                  srun -n1 sh -c 'echo $PARALLAX_IMAGE_ID; echo first >/var/tmp/written'\n\
                  srun -n2 sh -c \"$show\"\n\
                  srun -n1 --parallax-name=none sh -c \"$show\"\n\
                  srun -n1 --parallax-name=other sh -c \"$show\"\n\
                  srun -n1 sh -c 'echo second >>/var/tmp/written'\n\
                  srun -n1 --export=NONE sh -c \"$show\"\n\
                  srun -n1 --parallax-workdir=/usr --parallax-env=A=1 sh -c 'pwd; echo $A; id -u; cat /proc/sys/kernel/hostname'\n";
    let said = lines(cluster, script)?;
    let expected = ["first", "first", "nothing", "nothing", "first", "second", "/usr", "1", "1001", "n1"];
    ensure!(said.first().is_some_and(|id| id.len() == 64) && said[1..] == expected, "{said:?}");
    wait_for_no_lease(cluster, "n1")
}

fn two_steps_at_once_have_one_container(cluster: &Cluster) -> anyhow::Result<()> {
    let script = format!(
        "for step in 1 2 3 4; do srun --overlap -n2 {NAMESPACE} & done; wait\nsrun --overlap -n1 {NAMESPACE}\n\
         srun --overlap -n1 --parallax-name=none {NAMESPACE}\n"
    );
    let mut said = lines(cluster, &script)?;
    let own = said.pop().context("nothing")?;
    ensure!(said.len() == 9 && said.iter().all(|line| *line == said[0]) && own != said[0], "{said:?} {own}");
    wait_for_no_lease(cluster, "n1")
}

fn a_step_that_wants_another_container_is_refused(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "srun -n1 true\n\
                  try() { srun -n1 \"$@\" touch ran 2>&1 | grep '^parallax:'; }\n\
                  try --parallax-image=tiny\ntry --parallax-userns=root\ntry --parallax-mount=/opt/x.sqsh:/x:sqsh\n\
                  try --parallax-readonly\ntry --parallax-no-mount-home\nls ran 2>/dev/null\ntrue\n";
    let said = lines(cluster, script)?;
    let parts = [
        "the container \"env\" of this job has the image \"debian\" (id ",
        "was made with --parallax-userns=keep-id and not root; give another --parallax-name",
        "was made without this --parallax-mount of a SquashFS file at /x",
        "was made without --parallax-readonly",
        "was made without --parallax-no-mount-home",
    ];
    ensure!(said.len() == parts.len(), "{said:?}");
    for (line, part) in said.iter().zip(parts) {
        ensure!(line.contains(part), "no {part:?} in {line:?}");
    }
    Ok(())
}

fn a_step_may_mount_more_for_itself(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "srun -n1 true\n\
                  srun -n2 --parallax-mount=/usr/sbin:/more:ro,tmpfs:/own,?/missing:/missing sh -c \
                  'ls -d /more/slurmd /missing; : >/own/x && ls /own; touch /more/x || touch /var/tmp/written' 2>/dev/null\n\
                  srun -n1 sh -c 'ls /more /own /var/tmp/written; ls -d /more /own' 2>/dev/null\n\
                  srun -n1 --parallax-mount=/missing touch ran 2>&1 | grep '^parallax: '\n\
                  ls ran 2>/dev/null; true\n";
    let said = lines(cluster, script)?;
    // Each task has its own tmpfs, and later steps have the mount points alone.
    let expected = ["/more/slurmd", "x", "/more/slurmd", "x", "/var/tmp/written", "/more", "/own"];
    let seen: Vec<&str> = said
        .iter()
        .map(String::as_str)
        .filter(|line| !line.starts_with("/more:") && !line.starts_with("/own:"))
        .collect();
    let (refusal, seen) = seen.split_last().context("nothing")?;
    let mut own = seen.get(..4).unwrap_or_default().to_vec();
    own.sort_unstable();
    ensure!(own == ["/more/slurmd", "/more/slurmd", "x", "x"], "{said:?}");
    let rest: Vec<&str> = seen.iter().skip(4).copied().filter(|line| !line.is_empty()).collect();
    ensure!(rest == expected[4..], "{said:?}");
    ensure!(refusal.contains("cannot mount /missing: No such file") && refusal.contains("on the node n1"), "{said:?}");
    wait_for_no_lease(cluster, "n1")
}

fn a_step_may_mount_more_where_the_root_is_read_only(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "fixed='--parallax-image=debian --parallax-readonly --parallax-userns=root --parallax-name=fixed'\n\
                  srun -n1 $fixed true\n\
                  srun -n2 $fixed --parallax-mount=/usr/sbin:/more/of:ro sh -c 'ls /more/of/slurmd; touch /x' 2>&1 |\n\
                  grep -v ^srun: | sort\n\
                  srun -n1 --mpi=pmix $fixed sh -c 'ls -d $PMIX_SERVER_TMPDIR >/dev/null && echo shown'\n\
                  srun -n1 $fixed sh -c 'ls /more/of; touch /y' 2>&1 | grep -v ^srun:\n";
    let said = lines(cluster, script)?;
    let read_only = |path: &str| format!("touch: cannot touch '{path}': Read-only file system");
    let expected = [
        "/more/of/slurmd".into(),
        "/more/of/slurmd".into(),
        read_only("/x"),
        read_only("/x"),
        "shown".into(),
        read_only("/y"),
    ];
    ensure!(said == expected, "{said:?}");
    wait_for_no_lease(cluster, "n1")
}

fn a_step_may_name_the_container_alone(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "make='srun -n1 --parallax-image=debian --parallax-name'\n\
                  $make=env sh -c 'echo first >/var/tmp/written'\n\
                  $make=other --parallax-userns=root true\n\
                  srun -n2 --parallax-name=env sh -c 'cat /var/tmp/written; echo $PARALLAX_IMAGE_ID'\n\
                  srun -n1 --parallax-name=other id -u\n\
                  srun -n1 --export=NONE --parallax-name=env cat /var/tmp/written\n\
                  srun -n1 --parallax-name=third touch ran 2>&1 | grep '^parallax: '\n\
                  ls ran 2>/dev/null; true\n";
    let (done, said) = job_with(cluster, "", script)?;
    done.success().with_context(|| said.clone())?;
    let lines: Vec<&str> = said.lines().collect();
    let ids = lines.iter().filter(|line| line.len() == 64).count();
    let rest: Vec<&str> = lines.iter().filter(|line| line.len() != 64).copied().collect();
    let (refusal, rest) = rest.split_last().context("nothing")?;
    ensure!(ids == 2 && rest == ["first", "first", "0", "first"], "{said}");
    ensure!(
        refusal.contains("this job has no container \"third\" on this node; a step that names its image"),
        "{said}"
    );
    // Outside of a job there is none that it could mean.
    let done = cluster.srun("u1", &["-w", "n1", "--parallax-name=env", "touch", "ran"])?;
    ensure!(done.code == 1 && done.stderr.contains("--parallax-name needs an image"), "{done:?}");
    wait_for_no_lease(cluster, "n1")
}

fn a_step_may_say_whether_it_must_be_there(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "try() { srun -n1 \"$@\" 2>&1 | grep -v '^srun'; }\n\
                  try --parallax-name=env:exec echo ran\ntry --parallax-name=env:create echo made\n\
                  try --parallax-name=env:create echo ran\ntry --parallax-name=env:exec echo joined\n\
                  try --parallax-name=env:auto echo joined\ntry --parallax-name=env:other echo ran\n";
    let said = lines(cluster, script)?;
    let parts = [
        "this job has no container \"env\" on this node",
        "made",
        "this job has a container \"env\" already, and \":create\" asks for a new one",
        "joined",
        "joined",
        "--parallax-name: \"env:other\" is not a name",
    ];
    ensure!(said.len() == parts.len(), "{said:?}");
    for (line, part) in said.iter().zip(parts) {
        ensure!(line.contains(part), "no {part:?} in {line:?}");
    }
    Ok(())
}

fn a_step_that_cannot_make_it_leaves_it_to_the_next(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "srun -n2 --parallax-mount=/missing-on-node touch ran 2>&1 | grep -c '^parallax: '\n\
                  srun -n2 sh -c 'echo made'\nls ran 2>/dev/null\ntrue\n";
    let said = lines(cluster, script)?;
    ensure!(said == ["1", "made", "made"], "{said:?}");
    Ok(())
}

fn root_installs_and_a_later_step_uses_it(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "export PARALLAX_USERNS=root\n\
                  srun -n1 sh -c 'printf \"#!/bin/sh\\necho installed\\n\" >/usr/bin/new && chown daemon /usr/bin/new && chmod 755 /usr/bin/new'\n\
                  srun -n1 sh -c 'new; stat -c %U /usr/bin/new; id -u'\n";
    let said = lines(cluster, script)?;
    ensure!(said == ["installed", "daemon", "0"], "{said:?}");
    Ok(())
}

fn directories_that_slurm_makes_for_each_step_are_shown(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.shell(
        "n1",
        "install -d -o u1 /var/nodetmp/pmix.1.0 /var/nodetmp/pmix.1.1 && : >/var/nodetmp/pmix.1.1/second",
    )?;
    let script = "PMIX_SERVER_TMPDIR=/var/nodetmp/pmix.1.0 srun -n1 ls -d /var/nodetmp/pmix.1.0\n\
                  PMIX_SERVER_TMPDIR=/var/nodetmp/pmix.1.1 srun -n2 ls /var/nodetmp/pmix.1.1\n";
    let said = lines(cluster, script);
    cluster.shell("n1", "rm -r /var/nodetmp/pmix.1.0 /var/nodetmp/pmix.1.1")?;
    let said = said?;
    ensure!(said == ["/var/nodetmp/pmix.1.0", "second", "second"], "{said:?}");
    Ok(())
}

/// A job whose script waits for a line between two steps.
struct HeldJob {
    sbatch: Child,
    number: String,
}

const HELD: &str = "echo $SLURM_JOB_ID >up\n\
                    srun -n1 sh -c 'echo first >/var/tmp/written'\n\
                    echo made >up\nread -r line <go\nsrun -n1 cat /var/tmp/written\n";

impl HeldJob {
    /// Starts it and waits until its first step has ended.
    fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let home = cluster.home("u1");
        cluster.run("ctl", "u1", &["mkfifo", "up", "go"])?.success()?;
        let options = NAMED.join(" ");
        let script = home.join("held.sh");
        fs::write(&script, format!("#!/bin/bash\n#SBATCH -w n1 -n2 {options} -o held.out\n{HELD}"))?;
        chown(&script, Some(1001), Some(1001))?;
        let mut sbatch = cluster.command("ctl", "u1", &["sbatch", "--wait", "held.sh"]);
        let sbatch = sbatch.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let line = || -> anyhow::Result<String> {
            let mut text = String::new();
            fs::File::open(home.join("up"))?.read_to_string(&mut text)?;
            Ok(text.trim().to_owned())
        };
        let number = line()?;
        ensure!(line()? == "made", "the first step has failed");
        Ok(Self { sbatch, number })
    }

    fn clean(cluster: &Cluster) {
        for file in ["up", "go", "held.sh", "held.out"] {
            let _ = fs::remove_file(cluster.home("u1").join(file));
        }
    }
}

/// The containers that n1's agent knows: the names, and the directories.
fn containers(cluster: &Cluster) -> anyhow::Result<Vec<(Option<String>, String)>> {
    let status = cluster.agent_status("n1")?;
    let named = status.steps.into_iter().filter(|step| step.step.is_container());
    Ok(named.map(|step| (step.container, step.directory.display().to_string())).collect())
}

/// Neither the end of a step nor that of an agent, however it ends, is the container's.
fn a_container_outlives_agents_and_ends_with_its_job(cluster: &Cluster) -> anyhow::Result<()> {
    let tested = HeldJob::start(cluster).and_then(|mut job| {
        let before = containers(cluster)?;
        ensure!(before.len() == 1 && before[0].0.as_deref() == Some("env"), "{before:?}");
        let processes = cluster.shell("n1", "pgrep -lx parallax-hold || true")?;
        ensure!(processes.is_empty(), "something keeps the container: {processes}");
        cluster.service("n1", "stop", "agent")?;
        cluster.service("n1", "start", "agent")?;
        ensure!(containers(cluster)? == before, "the next agent does not know it");
        cluster.shell("n1", "agent=$(pgrep -x parallax-agent); kill -9 $agent; tail --pid=$agent -f /dev/null")?;
        cluster.service("n1", "start", "agent")?;
        ensure!(containers(cluster)? == before, "it did not survive the agent's crash");
        fs::OpenOptions::new().write(true).open(cluster.home("u1").join("go"))?.write_all(b"on\n")?;
        ensure!(job.sbatch.wait()?.success(), "the job has failed");
        let said = fs::read_to_string(cluster.home("u1").join("held.out"))?;
        ensure!(said == "first\n", "{said}");
        wait_for_no_lease(cluster, "n1")
    });
    HeldJob::clean(cluster);
    tested
}

fn a_container_ends_with_a_job_that_is_cancelled(cluster: &Cluster) -> anyhow::Result<()> {
    let tested = HeldJob::start(cluster).and_then(|mut job| {
        ensure!(containers(cluster)?.len() == 1, "no container");
        cluster.run("ctl", "u1", &["scancel", &job.number])?.success()?;
        job.sbatch.wait()?;
        wait_for_no_lease(cluster, "n1")?;
        let left = cluster.shell(
            "n1",
            "ls /run/parallax/steps /run/parallax/leases; grep -c /run/parallax /proc/1/mountinfo || true",
        )?;
        ensure!(!left.contains(&job.number), "{left}");
        Ok(())
    });
    HeldJob::clean(cluster);
    tested
}

/// Slurm starts no extern step here, and this job has no script on the node.
fn without_a_process_that_lasts_as_long_as_the_job_it_is_refused(cluster: &Cluster) -> anyhow::Result<()> {
    let done = cluster.srun("u1", &[&["-w", "n1"], &NAMED[..], &["touch", "ran"]].concat())?;
    ensure!(done.code == 125 && done.stderr.contains("set PrologFlags=Contain in slurm.conf"), "{done:?}");
    ensure!(!cluster.home("u1").join("ran").exists(), "a task ran");
    Ok(())
}
