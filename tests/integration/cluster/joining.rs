//! Tasks that join a container which another task has made, without the launcher.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, Done};

tests! { cluster:
    tasks_that_join_are_as_the_one_that_made_the_container,
    the_launcher_does_what_takes_more_than_joining,
    commands_that_fail_are_told_once,
    a_node_without_the_program_that_joins,
}

const LAUNCHER: &str = "/usr/libexec/parallax/parallax-launch";
const JOIN: &str = "/usr/libexec/parallax/parallax-join";
/// Where the launcher of [`with_counting_launcher`] notes its first argument.
const VERBS: &str = "/tmp/launched";
const TASKS: usize = 4;

fn step(cluster: &Cluster, options: &[&str], command: &[&str]) -> anyhow::Result<Done> {
    let tasks = TASKS.to_string();
    let step = ["-w", "n1", "-n", &tasks, "--overcommit", "--parallax-image=debian"];
    cluster.srun("u1", &[&step[..], options, command].concat())
}

/// Runs `body` while the launcher of n1 notes what it is asked to do.
fn with_counting_launcher(cluster: &Cluster, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let launcher = cluster.path_on("n1", LAUNCHER)?;
    let real = launcher.with_extension("real");
    // A test that failed did not take its words.
    cluster.shell("n1", &format!("rm -f {VERBS}"))?;
    fs::rename(&launcher, &real)?;
    let script = format!("#!/bin/sh\necho $1 >>{VERBS}\nexec $0.real \"$@\"\n");
    let tested = fs::write(&launcher, script)
        .and_then(|()| fs::set_permissions(&launcher, Permissions::from_mode(0o755)))
        .map_err(Into::into)
        .and_then(|()| body());
    fs::rename(&real, &launcher)?;
    tested
}

/// What the launcher was asked to do since the last call, in order of the words.
fn verbs(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let noted = cluster.shell("n1", &format!("cat {VERBS}; rm {VERBS}"))?;
    let mut verbs: Vec<String> = noted.lines().map(ToOwned::to_owned).collect();
    verbs.sort();
    Ok(verbs)
}

/// The lines of each task, by its number.
fn by_task(labelled: &str) -> anyhow::Result<BTreeMap<usize, BTreeSet<&str>>> {
    let mut tasks: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
    for line in labelled.lines() {
        let (task, text) = line.split_once(": ").with_context(|| line.to_owned())?;
        tasks.entry(task.trim().parse()?).or_default().insert(text);
    }
    Ok(tasks)
}

/// Everything that a process takes over when it is executed: only what Slurm gives each task differs (`TMPDIR` is the first task's alone).
fn tasks_that_join_are_as_the_one_that_made_the_container(cluster: &Cluster) -> anyhow::Result<()> {
    let script =
        "grep -e ^Cap -e ^SigBlk -e ^SigIgn -e ^Uid -e ^Gid -e ^Groups -e ^NoNewPrivs -e ^Seccomp: /proc/self/status
                  env | grep -v -e ^SLURM_PROCID= -e ^SLURM_LOCALID= -e ^SLURM_TASK_PID= -e ^TMPDIR= | sed 's/^/variable /'
                  (cd /proc/$$/fd && printf 'descriptor %s\\n' *)
                  ulimit -a; umask; echo $0; pwd; nice
                  readlink /proc/$$/cwd /proc/$$/root /proc/$$/exe /proc/$$/ns/user /proc/$$/ns/mnt /proc/$$/ns/pid
                  cat /proc/$$/cgroup /proc/$$/oom_score_adj /proc/$$/comm";
    let options = ["--label", "--parallax-env=ADDED=1,-LANG", "--nice=0"];
    let root: &[&str] = &["--parallax-image=debian", "--parallax-userns=root", "--parallax-readonly"];
    with_counting_launcher(cluster, || {
        for image in [&["--parallax-image=debian"][..], &["--parallax-image=python"], root] {
            let done = step(cluster, &[&options[..], image].concat(), &["sh", "-c", script])?.success()?;
            let tasks = by_task(&done.stdout)?;
            ensure!(tasks.len() == TASKS && tasks[&0].len() > 60, "{done:?}");
            ensure!(tasks[&0].contains("variable ADDED=1") && tasks[&0].contains("descriptor 2"), "{done:?}");
            for (task, said) in &tasks {
                let differs: Vec<_> = said.symmetric_difference(&tasks[&0]).collect();
                ensure!(differs.is_empty(), "task {task} with {image:?}: {differs:?}");
            }
            let asked = verbs(cluster)?;
            ensure!(asked == ["locked"], "{asked:?}");
        }
        Ok(())
    })
}

fn the_launcher_does_what_takes_more_than_joining(cluster: &Cluster) -> anyhow::Result<()> {
    let programs = cluster.home("u1").join("programs");
    fs::write(&programs, "0-1 /usr/bin/true\n2 /usr/bin/env\n3 true\n")?;
    let tested = with_counting_launcher(cluster, || {
        let all: &[&str] = &["locked", "run", "run", "run"];
        let cases: [(&[&str], &[&str], &[&str]); 6] = [
            (&[], &["true"], &["locked"]),
            (&[], &["/usr/bin/true"], &["locked"]),
            // It measures how long tasks wait.
            (&["--parallax-timings"], &["true"], &["run"; TASKS]),
            (&["--parallax-env=-PATH"], &["/usr/bin/true"], all),
            (&["--parallax-entrypoint"], &["true"], all),
            (&["--bcast=/var/tmp/broadcast"], &["/usr/bin/true"], all),
        ];
        for (options, command, expected) in cases {
            step(cluster, options, command)?.success()?;
            let asked = verbs(cluster)?;
            ensure!(asked == expected, "{options:?} {command:?}: {asked:?}");
        }
        // Which task is the first is chance: those with the same program as it, or a name, join.
        step(cluster, &["--multi-prog"], &["programs"])?.success()?;
        let asked = verbs(cluster)?;
        ensure!(asked[0] == "locked" && (2..=TASKS).contains(&asked.len()), "{asked:?}");
        Ok(())
    });
    fs::remove_file(programs)?;
    cluster.shell("n1", "rm -f /var/tmp/broadcast")?;
    tested
}

/// By the launcher, which is executed in the container for that.
fn commands_that_fail_are_told_once(cluster: &Cluster) -> anyhow::Result<()> {
    let cases: [(&[&str], &[&str], i32, &str); 5] = [
        (&[], &["nosuch"], 127, "there is no \"nosuch\" in the image (image \"debian\")"),
        (&[], &["./nosuch"], 127, "there is no \"./nosuch\" in the image"),
        (&[], &["/etc/passwd"], 126, "cannot execute \"/etc/passwd\": Permission denied (image \"debian\")"),
        (&["--parallax-workdir=/nosuch"], &["true"], 125, "cannot start in /nosuch: No such file"),
        (&["--parallax-env=PATH=/nosuch"], &["true"], 127, "there is no \"true\" in the image"),
    ];
    for (options, command, code, message) in cases {
        let done = step(cluster, options, command)?;
        let told: Vec<&str> = done.stderr.lines().filter(|line| line.contains("parallax: ")).collect();
        ensure!(done.code == code && told.len() == 1 && told[0].contains(message), "{options:?} {command:?}: {done:?}");
    }
    Ok(())
}

/// As of a processor that it is not made for.
fn a_node_without_the_program_that_joins(cluster: &Cluster) -> anyhow::Result<()> {
    let join = cluster.path_on("n1", JOIN)?;
    let away: &Path = &join.with_extension("away");
    fs::rename(&join, away)?;
    let tested = with_counting_launcher(cluster, || {
        step(cluster, &[], &["true"])?.success()?;
        let asked = verbs(cluster)?;
        ensure!(asked == ["run"; TASKS], "{asked:?}");
        Ok(())
    });
    fs::rename(away, &join)?;
    tested
}
