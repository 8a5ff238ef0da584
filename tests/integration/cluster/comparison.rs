//! The same command line with and without an image: what Slurm does with the tasks, and what users see of it, is the same.
//!
//! Each case is a script that calls srun or sbatch with `$IMAGE`, which is the option with an image or empty. The image has the
//! programs of the nodes' Debian.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::thread;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, Done};
use integration_tests::held::HeldStep;

pub(super) mod binding;
pub(super) mod homes;

tests! { cluster:
    ends_of_tasks,
    input_and_output,
    programs_and_numbers_of_tasks,
    environments,
    jobs_of_scripts,
    groups_and_limits,
    signals_reach_the_tasks,
    a_signal_before_the_time_limit,
    a_step_that_is_attached_to,
}

const IMAGE: &str = "--parallax-image=debian";

/// What a command line did, without what differs from run to run.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    code: i32,
    output: Vec<String>,
    errors: Vec<String>,
}

impl Outcome {
    fn of(done: &Done) -> Self {
        Self { code: done.code, output: lines(&done.stdout), errors: lines(&done.stderr) }
    }
}

/// The lines in order of their text, with numbers of jobs left out: tasks write in any order.
fn lines(text: &str) -> Vec<String> {
    // Whether a job waits for an earlier one's end is chance, and a terminal without a keyboard echoes the end of its input.
    let mut lines: Vec<String> = text.lines().map(|line| without_job(line).replace("^@", "")).collect();
    lines.retain(|line| !line.is_empty() && !line.starts_with("srun: job # "));
    lines.sort();
    lines
}

fn without_job(line: &str) -> String {
    let mut before = "";
    let words = line.split(' ').map(|word| {
        let is_number = word.starts_with(|c: char| c.is_ascii_digit());
        let number = is_number && ["job", "STEP", "AT"].contains(&before);
        before = word;
        match word.split_once('=') {
            Some((name @ ("StepId" | "JobId"), _)) => format!("{name}=#"),
            _ if number => "#".to_owned(),
            _ => word.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Runs a script of u1's with and without the image and compares. Returns what it did.
fn same(cluster: &Cluster, case: &str, script: &str) -> anyhow::Result<Outcome> {
    same_as(cluster, "u1", case, script)
}

/// The same for another user.
fn same_as(cluster: &Cluster, user: &str, case: &str, script: &str) -> anyhow::Result<Outcome> {
    let run = |image: &str| {
        let text =
            format!("IMAGE={image}\nwork=$(mktemp -d ./XXXXXX); cd $work; trap 'cd ..; rm -r $work' EXIT\n{script}");
        cluster.run("ctl", user, &["bash", "-c", &text]).map(|done| Outcome::of(&done))
    };
    let (without, with) = (run("")?, run(IMAGE)?);
    ensure!(without == with, "{case}: without an image {without:#?}, with one {with:#?}");
    Ok(with)
}

fn ends_of_tasks(cluster: &Cluster) -> anyhow::Result<()> {
    let exit = same(cluster, "exit code", "srun -n2 $IMAGE sh -c 'exit $((SLURM_PROCID * 7))'")?;
    ensure!(exit.code == 7, "{exit:?}");
    let signal = same(cluster, "signal", "srun -w n1 $IMAGE sh -c 'kill -USR1 $$'")?;
    ensure!(signal.code == 138, "{signal:?}");
    let core = same(cluster, "core dump", "ulimit -c 0; srun -w n1 $IMAGE sh -c 'ulimit -c; kill -SEGV $$'")?;
    ensure!(core.code == 139 && core.output == ["0"], "{core:?}");
    // Where the machine's pattern puts a core file is the machine's affair.
    let dumped = "ulimit -c unlimited; srun -w n1 $IMAGE sh -c 'ulimit -c; kill -SEGV $$'; echo $?; ls | grep -c ^core";
    let dumped = same(cluster, "core file", dumped)?;
    ensure!(dumped.output.contains(&"139".to_owned()), "{dumped:?}");
    let killed = "srun -n4 -N2 --kill-on-bad-exit=1 $IMAGE sh -c '
        if [ $SLURM_PROCID = 1 ]; then exit 5; fi
        mkfifo wait.$SLURM_PROCID 2>/dev/null; read never <wait.$SLURM_PROCID'; echo $?";
    let killed = same(cluster, "kill on bad exit", killed)?;
    ensure!(killed.output != ["0"], "{killed:?}");
    let waited =
        same(cluster, "the others go on", "srun -n2 --kill-on-bad-exit=0 $IMAGE sh -c 'exit $SLURM_PROCID'; echo $?")?;
    ensure!(waited.output == ["1"], "{waited:?}");
    same(cluster, "no such program", "srun -w n1 $IMAGE /nonexistent 2>/dev/null; test $? != 0; echo $?").map(drop)
}

fn input_and_output(cluster: &Cluster) -> anyhow::Result<()> {
    let label = same(cluster, "label", "srun -n3 --label $IMAGE sh -c 'echo out; echo err >&2'")?;
    ensure!(label.output == ["0: out", "1: out", "2: out"] && label.errors.len() == 3, "{label:?}");
    let input = same(cluster, "input to one task", "printf 'a\\nb\\n' | srun -n2 --input=1 $IMAGE sh -c 'wc -l'")?;
    ensure!(input.output == ["0", "2"], "{input:?}");
    let none = same(cluster, "no input", "echo a | srun -n2 --input=none $IMAGE wc -c")?;
    ensure!(none.output == ["0", "0"], "{none:?}");
    let files = "srun -n2 --output=%t.out --error=%t.err $IMAGE sh -c 'echo $SLURM_PROCID; echo e >&2'; cat *.out; cat *.err >&2";
    let files = same(cluster, "files", files)?;
    ensure!(files.output == ["0", "1"] && files.errors == ["e", "e"], "{files:?}");
    let large = "head -c 3000000 /dev/zero | srun -n1 -w n1 $IMAGE sh -c 'tee copy | wc -c'; stat -c %s copy";
    let large = same(cluster, "large input", large)?;
    ensure!(large.output == ["3000000", "3000000"], "{large:?}");
    let terminal = r#"script -qec "srun --pty $IMAGE sh -c 'test -t 0 && test -t 1 && stty size && echo terminal'" /dev/null </dev/null"#;
    let terminal = same(cluster, "terminal", terminal)?;
    ensure!(terminal.output.iter().any(|line| line.contains("terminal")), "{terminal:?}");
    Ok(())
}

fn programs_and_numbers_of_tasks(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "printf '0 echo first\\n1-2 echo other %%o\\n' >programs; srun -n3 --multi-prog $IMAGE programs";
    let programs = same(cluster, "several programs", script)?;
    ensure!(programs.output == ["first", "other 0", "other 1"], "{programs:?}");
    let many = same(cluster, "200 tasks", "srun -n200 --overcommit $IMAGE sh -c 'echo $SLURM_PROCID'")?;
    ensure!(many.output.len() == 200 && many.errors.is_empty(), "{many:?}");
    let overlap =
        "salloc --quiet -n2 bash -c 'srun --overlap -n2 $IMAGE echo a & srun --overlap -n2 $IMAGE echo b & wait'";
    let overlap = same(cluster, "steps at once", &format!("export IMAGE; {overlap}"))?;
    ensure!(overlap.output == ["a", "a", "b", "b"], "{overlap:?}");
    let mixed = "srun -n1 -w n1 $IMAGE sh -c 'echo $SLURM_PROCID' : -n1 -w n2 $IMAGE sh -c 'echo $SLURM_PROCID'";
    let mixed = same(cluster, "components", mixed)?;
    ensure!(mixed.output == ["0", "1"], "{mixed:?}");
    Ok(())
}

fn environments(cluster: &Cluster) -> anyhow::Result<()> {
    // An image adds variables of its own, and says which image it is.
    let names = "/bin/sh -c 'env | cut -d= -f1 | grep -Ev \"^(PARALLAX_|SLURM_PARALLAX_|SLURM_SPANK_|_SLURM_SPANK_|PATH$|_$|PWD$)\" | sort -u'";
    let own = same(cluster, "all", &format!("MINE=1 srun -w n1 $IMAGE {names}"))?;
    ensure!(own.output.contains(&"MINE".to_owned()), "{own:?}");
    let none = same(cluster, "none", &format!("MINE=1 srun -w n1 --export=NONE $IMAGE {names}"))?;
    ensure!(!none.output.contains(&"MINE".to_owned()) && none.output.contains(&"SLURM_JOB_ID".to_owned()), "{none:?}");
    let one = same(cluster, "one", "A=1 B=2 srun -w n1 --export=B,C=3 $IMAGE /bin/sh -c 'echo \"$A,$B,$C\"'")?;
    ensure!(one.output == [",2,3"], "{one:?}");
    let many = "for i in $(seq 10000); do export V$i=$i; done; srun -w n1 $IMAGE sh -c 'env | grep -c ^V[0-9]'";
    let many = same(cluster, "10,000 variables", many)?;
    ensure!(many.output == ["10000"], "{many:?}");
    let odd = "export LINES_OF='one\ntwo' EMPTY=; srun -w n1 $IMAGE sh -c 'echo \"$LINES_OF\"; echo ${EMPTY-unset}.'";
    let odd = same(cluster, "odd values", odd)?;
    ensure!(odd.output == [".", "one", "two"], "{odd:?}");
    // What a prolog exports, unsets and prints, which Slurm takes from its output; the program itself runs on the node.
    let prolog = r#"printf '#!/bin/sh\necho export OF_PROLOG="two words"\necho unset MINE\necho print of the prolog\ntest ! -e /run/.containerenv || echo print inside\n' >prolog
        printf '#!/bin/sh\necho $OF_PROLOG >"$EPILOG_WRITES"\n' >epilog; chmod +x prolog epilog
        MINE=1 EPILOG_WRITES=$PWD/written srun -w n1 --task-prolog=$PWD/prolog --task-epilog=$PWD/epilog $IMAGE sh -c 'echo "$OF_PROLOG, ${MINE-unset}"'
        cat written"#;
    let prolog = same(cluster, "task prolog and epilog", prolog)?;
    ensure!(prolog.output.iter().any(|line| line == "two words, unset"), "{prolog:?}");
    ensure!(prolog.output.iter().any(|line| line == "of the prolog") && !prolog.output.contains(&"inside".to_owned()));
    Ok(())
}

fn jobs_of_scripts(cluster: &Cluster) -> anyhow::Result<()> {
    let array = "sbatch --quiet --wait --array=1-3 --output=%a.out --wrap=\"srun $IMAGE sh -c 'echo \\$SLURM_ARRAY_TASK_ID'\"; cat *.out";
    let array = same(cluster, "array", array)?;
    ensure!(array.output == ["1", "2", "3"], "{array:?}");
    let requeued = r#"
        cat >script <<'END'
#!/bin/bash
srun $IMAGE sh -c 'echo ${SLURM_RESTART_COUNT:-0}' >>counts
if [ -z "$SLURM_RESTART_COUNT" ]; then scontrol requeue $SLURM_JOB_ID; read never <wait; fi
echo end >wait
END
        mkfifo wait; export IMAGE
        # A job that was requeued waits two minutes unless it is told otherwise. slurmd takes no credential of the second in which it revoked
        # those of the job.
        job=$(sbatch --parsable --requeue --output=/dev/null script)
        until [ "$(squeue --noheader --job $job --format=%t)" = PD ] && [ -e counts ]; do :; done
        requeued=$(date +%s)
        until [ $(date +%s) -gt $((requeued + 1)) ]; do :; done
        scontrol update job=$job StartTime=now
        cat wait
        cat counts"#;
    let requeued = same(cluster, "requeued", requeued)?;
    ensure!(requeued.output == ["0", "1", "end"], "{requeued:?}");
    Ok(())
}

fn groups_and_limits(cluster: &Cluster) -> anyhow::Result<()> {
    let seen = "sh -c 'id -u; id -g; ulimit -n; ulimit -s; umask; nice; pwd | wc -c'";
    same(cluster, "as usual", &format!("srun -w n1 $IMAGE {seen}"))?;
    same(cluster, "limits", &format!("ulimit -n 300; umask 077; nice -n 5 srun -w n1 $IMAGE {seen}"))?;
    same(cluster, "a file's owner", "srun -w n1 $IMAGE touch file; stat -c '%u %g %a' file")?;
    // Another primary group, one of the user's.
    let groups = cluster.run("ctl", "u1", &["id", "-Gn"])?.success()?;
    for group in groups.stdout.split_whitespace() {
        same(
            cluster,
            group,
            &format!(
                "sg {group} -c \"srun -w n1 $IMAGE {seen}\"; sg {group} -c \"srun -w n1 $IMAGE touch file\"; stat -c %g file"
            ),
        )?;
    }
    Ok(())
}

/// What a held step writes when it gets a signal by scancel, and how it ends.
fn signals_reach_the_tasks(cluster: &Cluster) -> anyhow::Result<()> {
    let run = |image: &[&str]| -> anyhow::Result<(BTreeSet<String>, i32)> {
        // Signals reach all processes of a step. A dash would stop reading at the first.
        let script = "exec bash -c 'trap \"echo got USR1 $SLURM_PROCID\" USR1; trap \"echo got TERM $SLURM_PROCID; exit 9\" TERM; \
                      echo $SLURM_JOB_ID.$SLURM_STEP_ID; while read line; do :; done'";
        let mut step = HeldStep::start(cluster, "u1", &[&["-w", "n1", "-n2"], image].concat(), 2, script)?;
        let id = step.lines.first().cloned().unwrap_or_default();
        let mut said = BTreeSet::new();
        cluster.run("ctl", "u1", &["scancel", "--signal=USR1", &id])?.success()?;
        said.extend([step.read_line()?, step.read_line()?]);
        cluster.run("ctl", "u1", &["scancel", "--signal=TERM", &id])?.success()?;
        said.extend([step.read_line()?, step.read_line()?]);
        let done = step.wait()?;
        said.extend(lines(&done.stderr));
        Ok((said, done.code))
    };
    let (without, with) = (run(&[])?, run(&[IMAGE])?);
    ensure!(without == with && with.0.contains("got USR1 1") && with.0.contains("got TERM 0"), "{without:?}, {with:?}");
    Ok(())
}

/// Slurm looks at the time limits of jobs every 30 seconds.
fn a_signal_before_the_time_limit(cluster: &Cluster) -> anyhow::Result<()> {
    let start = |image: &[&str]| {
        let script = "exec bash -c 'trap \"echo got USR1\" USR1; echo started; while read line; do :; done'";
        HeldStep::start(cluster, "u1", &[&["-w", "n1", "--time=1", "--signal=USR1@58"], image].concat(), 1, script)
    };
    for mut step in [start(&[])?, start(&[IMAGE])?] {
        ensure!(step.read_line()? == "got USR1");
        step.finish()?;
    }
    Ok(())
}

/// Whoever attaches sees what the tasks write from then on, as the srun that started them does.
fn a_step_that_is_attached_to(cluster: &Cluster) -> anyhow::Result<()> {
    for image in [&[][..], &[IMAGE]] {
        let script = "echo $SLURM_JOB_ID.$SLURM_STEP_ID; while read line; do echo wrote $line; done";
        let mut step = HeldStep::start(cluster, "u1", &[&["-w", "n1"], image].concat(), 1, script)?;
        let id = step.lines.first().cloned().unwrap_or_default();
        let attach = ["timeout", "60", "sattach", &id];
        // The end of its input would be the end of the task's.
        let mut attached =
            cluster.command("ctl", "u1", &attach).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = attached.stdout.take().context("no output")?;
        let seen = thread::spawn(move || {
            let mut lines = BufReader::new(output).lines().map_while(Result::ok);
            lines.find(|line| line.starts_with("wrote line "))
        });
        // sattach does not say when it is ready. Each round waits for what the task writes.
        let mut rounds = 0;
        while !seen.is_finished() {
            step.write_line(&format!("line {rounds}"))?;
            ensure!(step.read_line()? == format!("wrote line {rounds}"), "{image:?}");
            rounds += 1;
        }
        step.finish()?;
        let line = seen.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
        ensure!(line.is_some(), "{image:?}: sattach showed nothing");
        attached.wait()?;
    }
    Ok(())
}
