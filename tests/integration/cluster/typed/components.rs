//! Heterogeneous jobs and steps. Slurm keeps one set of plugin options for all components.

use anyhow::ensure;
use integration_tests::cluster::Cluster;

use super::{batch, batch_output, refused};

tests! { cluster:
    components_that_differ_are_refused,
    components_that_agree_run,
    an_inherited_image_and_components,
    a_heterogeneous_batch_job,
    a_heterogeneous_allocation,
    the_last_of_several_values_counts,
}

const DEBIAN: &str = "--parallax-image=debian";
const PYTHON: &str = "--parallax-image=python";
const NONE: &str = "--parallax-image=none";
const PODMAN: &str = "--parallax-mode=podman";
/// What is in `python` alone.
const TOOL: &str = "/opt/tool/bin/tool";

fn components_that_differ_are_refused(cluster: &Cluster) -> anyhow::Result<()> {
    // Options of the two components, and what the sentence says of them.
    let differing: &[(&[&str], &[&str], [&str; 2])] = &[
        (&[DEBIAN], &[PYTHON], ["component 0 has the image \"debian\"", "component 1 has the image \"python\""]),
        (&[DEBIAN], &[NONE], ["component 0 has the image \"debian\"", "component 1 has no image"]),
        (&[NONE], &[DEBIAN], ["component 0 has no image", "component 1 has the image \"debian\""]),
        (&[DEBIAN], &[], ["component 0 has the image \"debian\"", "component 1 has no image"]),
        (&[], &[DEBIAN], ["component 0 has no image", "component 1 has the image \"debian\""]),
        (&[DEBIAN, PODMAN], &[DEBIAN], ["component 0 has the mode \"podman\"", "component 1 has the mode \"run\""]),
        (&[DEBIAN], &[DEBIAN, PODMAN], ["component 0 has the mode \"run\"", "component 1 has the mode \"podman\""]),
    ];
    for (first, second, parts) in differing {
        let step = [*first, &["echo", "ran", ":"], second, &["echo", "ran"]].concat();
        refused(&cluster.srun("u1", &step)?, &[parts[0], parts[1], "--het-group=N", "an srun of its own"])?;
        for program in ["salloc", "sbatch"] {
            let options = [&[program, "-N1"], *first, &[":", "-N1"], second].concat();
            let command: &[&str] = if program == "salloc" { &["echo", "ran"] } else { &["--wrap", "echo ran"] };
            let done = cluster.run("ctl", "u1", &[options.as_slice(), command].concat())?;
            refused(&done, &[parts[0], parts[1], "srun --het-group=N"])?;
        }
    }
    // A third one, which differs from two that agree.
    let step = [DEBIAN, "echo", "ran", ":", DEBIAN, "echo", "ran", ":", PYTHON, "echo", "ran"];
    refused(&cluster.srun("u1", &step)?, &["component 2 has the image \"python\""])
}

fn components_that_agree_run(cluster: &Cluster) -> anyhow::Result<()> {
    let step = |options: &[&str], other: &[&str]| -> anyhow::Result<()> {
        let script = format!("test -e {TOOL} && echo $0 in the image");
        let (one, two) = (["sh", "-c", &script, "one"], ["sh", "-c", &script, "two"]);
        let done = cluster.srun("u1", &[options, &one, &[":"], other, &two].concat())?.success()?;
        let mut lines: Vec<&str> = done.stdout.lines().collect();
        lines.sort_unstable();
        ensure!(lines == ["one in the image", "two in the image"], "{done:?}");
        Ok(())
    };
    step(&[PYTHON], &[PYTHON])?;
    // "run" is the mode where none is written.
    step(&[PYTHON], &[PYTHON, "--parallax-mode=run"])?;
    let without = cluster.srun("u1", &["echo", "one", ":", "echo", "two"])?.success()?;
    ensure!(without.stdout.lines().count() == 2, "{without:?}");
    Ok(())
}

fn an_inherited_image_and_components(cluster: &Cluster) -> anyhow::Result<()> {
    let script = format!(
        "#!/bin/bash\n#SBATCH {PYTHON} -N2 -n2\nn='-N1 -n1'\n\
         srun $n test -e {TOOL} : $n test -e {TOOL} && echo inherited by both\n\
         srun $n {DEBIAN} test ! -e {TOOL} : $n {DEBIAN} test ! -e {TOOL} && echo overridden in both\n\
         srun $n {NONE} test -e /usr/sbin/slurmd : $n {NONE} test -e /usr/sbin/slurmd && echo taken back in both\n\
         srun $n {DEBIAN} echo RAN : $n echo RAN || echo overridden in one\n\
         srun $n echo RAN : $n {DEBIAN} echo RAN || echo overridden in the other\n\
         srun $n {PYTHON} test -e {TOOL} : $n test -e {TOOL} && echo said and inherited\n"
    );
    let written = batch_output(cluster, &script, &[])?;
    ensure!(!written.contains("RAN"), "a step with two images ran: {written}");
    for line in [
        "inherited by both",
        "overridden in both",
        "taken back in both",
        "overridden in one",
        "overridden in the other",
        "said and inherited",
    ] {
        ensure!(written.lines().any(|written| written == line), "not {line:?}: {written}");
    }
    Ok(())
}

fn a_heterogeneous_batch_job(cluster: &Cluster) -> anyhow::Result<()> {
    let script = |first: &str, second: &str, body: &str| {
        format!("#!/bin/bash\n#SBATCH -N1 -n1 {first}\n#SBATCH hetjob\n#SBATCH -N1 -n1 {second}\n{body}")
    };
    for (first, second) in [(DEBIAN, PYTHON), (DEBIAN, ""), ("", DEBIAN), (DEBIAN, NONE)] {
        let (done, written) = batch(cluster, &script(first, second, "echo ran\n"), &[])?;
        refused(&done, &["component 0 has", "component 1 has", "srun --het-group=N --parallax-image=IMAGE"])?;
        ensure!(written.is_empty(), "{written}");
    }
    let body = format!(
        "srun test ! -e {TOOL} && echo the first one\n\
         srun --het-group=1 test ! -e {TOOL} && echo the second one\n\
         srun --het-group=0,1 --label sh -c 'test -e {TOOL} || echo in debian' | sort\n\
         srun --het-group=1 {PYTHON} test -e {TOOL} && echo the second one in python\n\
         srun --het-group=0 {PYTHON} test -e {TOOL} && echo the first one in python\n\
         srun --het-group=0,1 {PYTHON} --label sh -c 'test -e {TOOL} && echo in python' | sort\n\
         srun --het-group=0 {PYTHON} echo RAN : --het-group=1 {DEBIAN} echo RAN || echo not both\n"
    );
    let expected = "the first one\nthe second one\n0: in debian\n1: in debian\nthe second one in python\n\
                    the first one in python\n0: in python\n1: in python\n";
    let is_expected = |written: &str| {
        // srun says so where it had to wait for the step before.
        let noise = |line: &str| line.contains("parallax: ") || line.starts_with("srun: ") || line == "not both";
        let own: Vec<&str> = written.lines().filter(|line| !noise(line)).collect();
        own == expected.lines().collect::<Vec<_>>() && written.contains("not both") && !written.contains("RAN")
    };
    let written = batch_output(cluster, &script(DEBIAN, DEBIAN, &body), &[])?;
    ensure!(is_expected(&written), "{written}");
    // The command line is every component's, and overrides what the script says of one.
    let written = batch_output(cluster, &script("", PYTHON, &body), &[DEBIAN])?;
    ensure!(is_expected(&written), "{written}");
    Ok(())
}

fn a_heterogeneous_allocation(cluster: &Cluster) -> anyhow::Result<()> {
    let body = format!(
        "srun --het-group=0 test -e {TOOL} && srun --het-group=1 test -e {TOOL} && \
         srun --het-group=1 {DEBIAN} test ! -e {TOOL} && srun --het-group=0,1 test -e {TOOL} && echo fine"
    );
    let line = ["salloc", "-N1", PYTHON, ":", "-N1", PYTHON, "sh", "-c", &body];
    let done = cluster.run("ctl", "u1", &line)?.success()?;
    ensure!(done.stdout.contains("fine"), "{done:?}");
    Ok(())
}

/// As with Slurm's own options.
fn the_last_of_several_values_counts(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.srun("u1", &[DEBIAN, PYTHON, "test", "-e", TOOL])?.success()?;
    let step = [DEBIAN, PYTHON, "test", "-e", TOOL, ":", NONE, PYTHON, "test", "-e", TOOL];
    cluster.srun("u1", &step)?.success().map(drop)
}
