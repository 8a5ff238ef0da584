//! The options beside the image: what tasks see with them, how they add up, and what is refused.

use std::collections::BTreeMap;

use anyhow::ensure;
use integration_tests::cluster::{Cluster, Done};

use super::{batch_output, refused};

tests! { cluster:
    mounts_show_paths_of_the_node,
    a_missing_source_names_the_node_and_the_path,
    variables_are_set_kept_and_unset,
    the_working_directory_is_the_one_asked_for,
    a_working_directory_that_is_not_shown_is_an_error,
    a_read_only_root_cannot_be_written,
    the_entry_point_runs_with_the_command,
    the_home_is_shown_or_not,
    steps_add_to_the_options_of_their_job,
    a_job_submitted_from_a_job_has_its_own_options,
    variables_are_defaults_of_options,
    what_is_wrong_is_told_at_submission,
    options_of_components,
    help_names_every_option,
    the_start_is_timed_for_each_node_and_each_task,
}

const IMAGE: &str = "--parallax-image=debian";

/// Runs a script in the image, as u1 on n1.
fn shell(cluster: &Cluster, options: &[&str], script: &str) -> anyhow::Result<Done> {
    cluster.srun("u1", &[&["-w", "n1", IMAGE], options, &["sh", "-c", script]].concat())
}

fn mounts_show_paths_of_the_node(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.shell("n1", r#"mkdir -p "/opt/a,b:c d/sub" && echo here >"/opt/a,b:c d/file" && chmod -R a+rwX /opt"#)?;
    let source = r"/opt/a\,b\:c d";
    let mounts = format!("--parallax-mount={source}:/data,{source}:/new/place:ro,tmpfs:/scratch,?/opt/missing");
    let script = "cat /data/file /new/place/file; echo changed >/data/file && cat /new/place/file; \
                  (: >/new/place/other) 2>/dev/null || echo read-only; \
                  touch /scratch/x && stat --file-system --format=%T /scratch; ls -d /opt/missing 2>/dev/null || echo left out";
    let done = shell(cluster, &[&mounts], script)?.success()?;
    ensure!(done.stdout == "here\nhere\nchanged\nread-only\ntmpfs\nleft out\n", "{done:?}");
    // Several options add up; a relative source belongs to the directory of submission.
    let done = shell(
        cluster,
        &["--parallax-mount=/opt:/one", "--parallax-mount=.:/two", "--parallax-mount=/opt:/one"],
        "ls -d '/one/a,b:c d'; pwd; [ /two -ef . ] && echo same",
    )?
    .success()?;
    ensure!(done.stdout == "/one/a,b:c d\n/home/u1\nsame\n", "{done:?}");
    // A link of the image's leads to a path of the image.
    let done = shell(cluster, &["--parallax-mount=/opt:/bin/below"], "ls -d '/usr/bin/below/a,b:c d'")?.success()?;
    ensure!(done.stdout == "/usr/bin/below/a,b:c d\n", "{done:?}");
    cluster.shell("n1", "rm -r '/opt/a,b:c d'").map(drop)
}

fn a_missing_source_names_the_node_and_the_path(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.shell("n1", "mkdir -p /opt/only-n1")?;
    let image = ["-N2", "-n4", IMAGE];
    let done = cluster.srun("u1", &[&image[..], &["--parallax-mount=/opt/only-n1", "true"]].concat())?;
    let said: Vec<&str> = done.stderr.lines().filter(|line| line.starts_with("parallax: ")).collect();
    let right = |line: &str| line.contains("/opt/only-n1") && line.contains("on the node n2") && line.contains("?/opt");
    ensure!(done.code == 125 && said.len() == 1 && said.iter().all(|line| right(line)), "{done:?}");
    let done = cluster.srun("u1", &[&image[..], &["--parallax-mount=?/opt/only-n1", "true"]].concat())?;
    cluster.shell("n1", "rmdir /opt/only-n1")?;
    done.success().map(drop)
}

fn variables_are_set_kept_and_unset(cluster: &Cluster) -> anyhow::Result<()> {
    let show = ["env"];
    let run = |options: &[&str]| -> anyhow::Result<BTreeMap<String, String>> {
        let environment = ["env", "FROM_JOB=job", "LANG=job", "srun", "-Q", "-w", "n1", "--parallax-image=python"];
        let done = cluster.run("ctl", "u1", &[&environment[..], options, &show].concat())?.success()?;
        let pairs = done.stdout.lines().filter_map(|line| line.split_once('='));
        Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    };
    let plain = run(&[])?;
    ensure!(plain["LANG"] != "job" && plain["FROM_JOB"] == "job", "the image sets LANG: {plain:?}");
    let changed = run(&[r"--parallax-env=NEW=a\,b=c,EMPTY=,LANG", "--parallax-env=-FROM_JOB,LAST=1,LAST=2"])?;
    ensure!(changed["NEW"] == "a,b=c" && changed["EMPTY"].is_empty() && changed["LAST"] == "2", "{changed:?}");
    ensure!(changed["LANG"] == "job" && !changed.contains_key("FROM_JOB"), "{changed:?}");
    Ok(())
}

fn the_working_directory_is_the_one_asked_for(cluster: &Cluster) -> anyhow::Result<()> {
    let done = shell(cluster, &["--parallax-workdir=/usr/share"], "pwd")?.success()?;
    ensure!(done.stdout == "/usr/share\n", "{done:?}");
    let done = shell(cluster, &["--parallax-workdir=/missing"], "pwd")?;
    let said = "cannot start in /missing: No such file or directory";
    ensure!(done.code == 125 && done.stderr.contains(said) && done.stderr.contains("--parallax-mount"), "{done:?}");
    Ok(())
}

/// No other directory is taken silently, except for a home that the user does not want to be shown.
fn a_working_directory_that_is_not_shown_is_an_error(cluster: &Cluster) -> anyhow::Result<()> {
    let directory = "/var/tmp/only-on-the-node";
    cluster.shell("n1", &format!("mkdir -p {directory}"))?;
    let chdir = format!("--chdir={directory}");
    let done = shell(cluster, &[&chdir], "pwd")?;
    let shown = shell(cluster, &[&chdir, &format!("--parallax-mount={directory}")], "pwd")?;
    let elsewhere = shell(cluster, &[&chdir, "--parallax-workdir=/usr"], "pwd")?;
    cluster.shell("n1", &format!("rmdir {directory}"))?;
    let said = format!("cannot start in {directory}: the container does not show it");
    ensure!(done.code == 125 && done.stdout.is_empty() && done.stderr.contains(&said), "{done:?}");
    ensure!(done.stderr.contains(&format!("--parallax-mount={directory} shows it")), "{done:?}");
    ensure!(shown.stdout.trim() == directory && elsewhere.stdout == "/usr\n", "{shown:?} {elsewhere:?}");
    let done = shell(cluster, &["--parallax-no-mount-home"], "pwd; ls -d /home/u1 2>/dev/null || echo no home")?;
    ensure!(done.stdout == "/\nno home\n", "{done:?}");
    Ok(())
}

fn a_read_only_root_cannot_be_written(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "(: >/var/tmp/x) 2>&1 | grep -o 'Read-only file system'; : >/tmp/own-$$ && rm /tmp/own-$$; \
                  : >$HOME/own-$$ && rm $HOME/own-$$; cat /new/hosts >/dev/null && echo done";
    let done = shell(cluster, &["--parallax-readonly", "--parallax-mount=/etc:/new"], script)?.success()?;
    ensure!(done.stdout == "Read-only file system\ndone\n", "{done:?}");
    let done = shell(cluster, &["--parallax-writable"], "(: >/var/tmp/x) && echo wrote")?.success()?;
    ensure!(done.stdout == "wrote\n", "{done:?}");
    Ok(())
}

fn the_entry_point_runs_with_the_command(cluster: &Cluster) -> anyhow::Result<()> {
    let show = ["sh", "-c", "echo $FROM_ENTRYPOINT"];
    let options = ["-w", "n1", "-n2", "--parallax-image=python"];
    let done = cluster.srun("u1", &[&options[..], &show].concat())?.success()?;
    ensure!(done.stdout == "\n\n", "{done:?}");
    let done = cluster.srun("u1", &[&options[..], &["--parallax-entrypoint"], &show].concat())?.success()?;
    ensure!(done.stdout == "yes\nyes\n", "{done:?}");
    Ok(())
}

fn the_home_is_shown_or_not(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.run("ctl", "u1", &["touch", "in-the-home"])?.success()?;
    let look = "[ -e /home/u1/in-the-home ] && echo shown || echo not shown";
    let elsewhere = ["--chdir=/tmp"];
    for (options, expected) in
        [(&["--parallax-mount-home"][..], "shown\n"), (&["--parallax-no-mount-home"], "not shown\n")]
    {
        let done = shell(cluster, &[&elsewhere[..], options].concat(), look)?.success()?;
        ensure!(done.stdout == expected, "{options:?}: {done:?}");
    }
    cluster.run("ctl", "u1", &["rm", "in-the-home"])?.success().map(drop)
}

/// A script's options are for all its steps, which have their own on top.
fn steps_add_to_the_options_of_their_job(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "#!/bin/sh\n\
                  #SBATCH -w n1 --parallax-image=debian --parallax-mount=/opt:/one --parallax-env=A=job,B=job\n\
                  show='echo $A $B $(ls -d /one /two 2>/dev/null)'\n\
                  srun -Q sh -c \"$show\"\n\
                  srun -Q --parallax-mount=/opt:/two --parallax-env=B=step sh -c \"$show\"\n\
                  srun -Q --export=NONE sh -c \"$show\"\n\
                  srun -Q --parallax-image=none sh -c \"$show\"\n";
    let said = batch_output(cluster, script, &[])?;
    ensure!(said == "job job /one\njob step /one /two\njob job /one\n\n", "{said}");
    Ok(())
}

fn a_job_submitted_from_a_job_has_its_own_options(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "#!/bin/sh\n\
                  #SBATCH -w n1 --parallax-image=debian --parallax-mount=/opt:/one --parallax-env=A=job\n\
                  sbatch -Q --wait -w n2 -o own.out --parallax-image=debian \
                      --wrap 'srun -Q sh -c \"echo [\\$A] \\$(ls -d /one 2>/dev/null)\"'\n\
                  cat own.out; rm own.out\n";
    let said = batch_output(cluster, script, &[])?;
    ensure!(said == "[]\n", "{said}");
    Ok(())
}

fn variables_are_defaults_of_options(cluster: &Cluster) -> anyhow::Result<()> {
    let run = |variables: &[&str], options: &[&str], command: &[&str]| {
        let srun = ["srun", "-Q", "-w", "n1"];
        cluster.run("ctl", "u1", &[&["env"], variables, &srun[..], options, command].concat())
    };
    let variables =
        ["PARALLAX_IMAGE=debian", "PARALLAX_MOUNT=/opt:/one", "PARALLAX_READONLY=yes", "PARALLAX_ENV=A=default"];
    let show = [
        "sh",
        "-c",
        "echo $A $(ls -d /one /two 2>/dev/null); (: >/var/tmp/x) 2>/dev/null && echo wrote; ls /usr/sbin/slurmd",
    ];
    let done = run(&variables, &[], &show)?;
    ensure!(done.stdout == "default /one\n" && done.stderr.contains("slurmd"), "not in the image: {done:?}");
    let options = ["--parallax-mount=/opt:/two", "--parallax-writable", "--parallax-env=A=typed"];
    let done = run(&variables, &options, &show)?;
    ensure!(done.stdout == "typed /one /two\nwrote\n", "the command line does not win: {done:?}");
    let done = run(&variables, &["--parallax-image=none"], &["sh", "-c", "echo $A; ls /usr/sbin/slurmd"])?;
    ensure!(done.stdout == "\n/usr/sbin/slurmd\n", "{done:?}");
    let done = run(&["PARALLAX_IMAGE=debian", "PARALLAX_READONLY=maybe"], &[], &["true"])?;
    ensure!(
        done.code == 1 && done.stderr.contains("PARALLAX_READONLY: \"maybe\" is neither true nor false"),
        "{done:?}"
    );
    // Of no meaning without an image.
    run(&["PARALLAX_MOUNT=x", "PARALLAX_READONLY=1"], &[], &["true"])?.success().map(drop)
}

fn what_is_wrong_is_told_at_submission(cluster: &Cluster) -> anyhow::Result<()> {
    let both = [IMAGE, "--parallax-readonly", "--parallax-writable"];
    let podman = [IMAGE, "--parallax-mode=podman", "--parallax-mount=/opt"];
    for (options, said) in [
        (&["--parallax-mount=/opt"][..], "--parallax-mount needs an image; specify one with --parallax-image=IMAGE"),
        (&["--parallax-readonly"], "--parallax-readonly needs an image"),
        (&[IMAGE, "--parallax-mount=opt:/x"], "--parallax-mount: \"opt:/x\": the source begins neither with"),
        (&[IMAGE, "--parallax-mount=/opt:/x:rprivat"], "the flag \"rprivat\" is unknown; did you mean \"rprivate\"?"),
        (&[IMAGE, "--parallax-mount=/opt:/"], "would hide the whole image"),
        (&[IMAGE, "--parallax-env=A=1,=2"], "--parallax-env: \"=2\": it has no name"),
        (&[IMAGE, "--parallax-workdir=here"], "--parallax-workdir: \"here\" is not an absolute path"),
        (&[IMAGE, "--parallax-device=gpu"], "--parallax-device: \"gpu\": it is neither a CDI name nor a path"),
        (&[IMAGE, "--parallax-annotation=a"], "--parallax-annotation: \"a\" is not NAME=VALUE"),
        (&[IMAGE, "--parallax-userns=auto"], "--parallax-userns: \"auto\" is unknown; write \"keep-id\""),
        (&[IMAGE, "--parallax-name=a/b"], "--parallax-name: \"a/b\" is not a name of letters"),
        (&both, "--parallax-writable: it contradicts --parallax-readonly"),
        (&podman, "--parallax-mount has no effect with --parallax-mode=podman"),
    ] {
        let done = cluster.srun("u1", &[options, &["touch", "ran"]].concat())?;
        let lines: Vec<&str> = done.stderr.lines().filter(|line| line.contains("parallax: ")).collect();
        ensure!(
            done.code == 1 && lines.len() == 1 && lines.iter().all(|line| line.contains(said)),
            "{options:?}: {done:?}"
        );
    }
    ensure!(!cluster.home("u1").join("ran").exists(), "a step ran");
    // A script's steps would inherit the mode, in which the mount has no meaning.
    let done = cluster.run("ctl", "u1", &[&["sbatch"], &podman[..], &["--wrap=true"]].concat())?;
    refused(&done, &["--parallax-mount has no effect with --parallax-mode=podman"])
}

/// Slurm keeps one environment for all components, so they get the same options or none runs.
fn options_of_components(cluster: &Cluster) -> anyhow::Result<()> {
    let component = |mount: &'static str| ["-n1", IMAGE, mount, "ls", "-d", "/one"];
    let (one, other) = ("--parallax-mount=/opt:/one", "--parallax-mount=/srv:/one");
    let done = cluster.srun("u1", &[&component(one)[..], &[":"], &component(one)].concat())?.success()?;
    ensure!(done.stdout == "/one\n/one\n", "{done:?}");
    let done = cluster.srun("u1", &[&component(one)[..], &[":"], &component(other)].concat())?;
    refused(&done, &["component 0 has some options and component 1 has other ones"])
}

fn help_names_every_option(cluster: &Cluster) -> anyhow::Result<()> {
    for program in ["srun", "sbatch", "salloc"] {
        let help = cluster.run("ctl", "u1", &[program, "--help"])?.success()?.stdout;
        for option in [
            "--parallax-image=IMAGE",
            "--parallax-mode=run|podman",
            "--parallax-mount=SRC[:DST[:FLAGS]],...",
            "--parallax-workdir=DIR",
            "--parallax-env=NAME=VALUE,...",
            "--parallax-device=DEVICE,...",
            "--parallax-annotation=NAME=VALUE,...",
            "--parallax-writable",
            "--parallax-readonly",
            "--parallax-entrypoint",
            "--parallax-mount-home",
            "--parallax-no-mount-home",
            "--parallax-edf=NAME|FILE",
            "--parallax-timings",
            "--parallax-userns=keep-id|root",
            "--parallax-name=NAME",
        ] {
            ensure!(help.contains(option), "{program}: no {option} in {help}");
        }
    }
    Ok(())
}

fn the_start_is_timed_for_each_node_and_each_task(cluster: &Cluster) -> anyhow::Result<()> {
    let own = "env | grep -c PARALLAX_TIMINGS_OF_STEP";
    for (variables, option) in [(&[][..], &["--parallax-timings"][..]), (&["PARALLAX_TIMINGS=1"], &[])] {
        let srun = ["srun", "-Q", "-N2", "-n4", "--ntasks-per-node=2", IMAGE];
        let command = [&["env"], variables, &srun[..], option, &["sh", "-c", own]].concat();
        let done = cluster.run("ctl", "u1", &command)?;
        let count = |text: &str| done.stderr.lines().filter(|line| line.starts_with(text)).count();
        ensure!(done.stdout == "0\n0\n0\n0\n", "tasks see the launcher's variable: {done:?}");
        ensure!(count("parallax: container ") == 4, "{done:?}");
        for node in ["n1", "n2"] {
            ensure!(count(&format!("parallax: agent of {node}: image found in ")) == 1, "{done:?}");
        }
    }
    let done = shell(cluster, &[], "true")?.success()?;
    ensure!(!done.stderr.contains("parallax: "), "{done:?}");
    Ok(())
}
