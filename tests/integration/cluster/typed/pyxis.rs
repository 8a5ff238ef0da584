//! Options with pyxis' names, where a site turns them on.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, Done, repository};

use super::edf::with_names;
use super::{batch_output, refused};
use crate::cluster::with_file;

tests! { cluster:
    a_command_line_of_a_launcher_runs,
    variables_are_defaults,
    a_job_hands_its_container_on,
    a_container_that_is_set_up_first_is_used_by_its_name,
    what_is_wrong_is_told,
    a_task_with_pytorch_finds_the_others,
    another_plugin_with_these_names_is_told,
}

const NODES: [&str; 3] = ["ctl", "n1", "n2"];

/// Runs a test with the names turned on.
fn on(cluster: &Cluster, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    with_names(cluster, &NODES, "pyxis,edf", body)
}

fn srun(cluster: &Cluster, options: &[&str], command: &[&str]) -> anyhow::Result<Done> {
    cluster.srun("u1", &[&["-w", "n1"], options, command].concat())
}

fn a_command_line_of_a_launcher_runs(cluster: &Cluster) -> anyhow::Result<()> {
    let options = [
        "--container-image=debian",
        "--container-mounts=/opt:/one:ro+x-create=auto,.:/two,umount:/sys",
        "--container-workdir=/one",
        "--container-env=LANG",
        "--no-container-mount-home",
        "--no-container-remap-root",
        "--container-writable",
        "--no-container-entrypoint",
    ];
    let script = "pwd; (: >/one/x) 2>/dev/null || echo read-only; [ -e /sys/kernel ] || echo no sys; : >/var/tmp/x && echo wrote";
    let done = srun(cluster, &["--container-image=debian"], &["true"])?;
    ensure!(done.code != 0 && done.stderr.contains("unrecognized option"), "the names are on: {done:?}");
    on(cluster, || {
        let done = srun(cluster, &options, &["sh", "-c", script])?.success()?;
        ensure!(done.stdout == "/one\nread-only\nno sys\nwrote\n" && done.stderr.is_empty(), "{done:?}");
        let done = srun(
            cluster,
            &["--container-image=debian", "--container-readonly", "--parallax-env=A=1"],
            &["sh", "-c", "echo $A"],
        )?;
        ensure!(done.success()?.stdout == "1\n", "our options do not add to pyxis'");
        let help = cluster.run("ctl", "u1", &["srun", "--help"])?.success()?.stdout;
        ensure!(help.contains("--container-image=[USER@][REGISTRY#]IMAGE[:TAG]"), "{help}");
        // Steps without an image do not notice.
        srun(cluster, &[], &["ls", "/usr/sbin/slurmd"])?.success().map(drop)
    })
}

fn variables_are_defaults(cluster: &Cluster) -> anyhow::Result<()> {
    let variables =
        ["env", "PYXIS_CONTAINER_IMAGE=debian", "PYXIS_CONTAINER_MOUNTS=/opt:/one", "PYXIS_CONTAINER_READONLY=yes"];
    let script = "[ -e /usr/sbin/slurmd ] && exec echo on the node; ls -d /one /two 2>/dev/null; \
                  (: >/var/tmp/x) 2>/dev/null && echo wrote; true";
    let show = ["sh", "-c", script];
    let run = |options: &[&str]| {
        cluster.run("ctl", "u1", &[&variables[..], &["srun", "-Q", "-w", "n1"], options, &show].concat())?.success()
    };
    ensure!(run(&[])?.stdout == "on the node\n", "they have an effect where the names are off");
    on(cluster, || {
        ensure!(run(&[])?.stdout == "/one\n");
        ensure!(run(&["--container-mounts=/opt:/two", "--container-writable"])?.stdout == "/one\n/two\nwrote\n");
        ensure!(run(&["--parallax-image=none"])?.stdout == "on the node\n");
        Ok(())
    })
}

fn a_job_hands_its_container_on(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "#!/bin/sh\n\
                  #SBATCH -w n1 --container-image=debian --container-mounts=/opt:/one\n\
                  show='cat /etc/debian_version; ls -d /one /two 2>/dev/null; true'\n\
                  srun -Q sh -c \"$show\"\n\
                  srun -Q --container-mounts=/opt:/two sh -c \"$show\"\n\
                  sbatch -Q --wait -o own.out --wrap 'srun -Q ls /usr/sbin/slurmd'; cat own.out; rm own.out\n";
    on(cluster, || {
        let said = batch_output(cluster, script, &[])?;
        let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with("13")).collect();
        ensure!(lines == ["/one", "/one", "/two", "/usr/sbin/slurmd"] && said.matches("13.").count() == 2, "{said}");
        Ok(())
    })
}

/// How benchmarks' scripts use pyxis: the first step makes the container, later ones name it, with mounts of their own and no image.
fn a_container_that_is_set_up_first_is_used_by_its_name(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "#!/bin/sh\n\
                  #SBATCH -w n1 -n2\n\
                  srun -Q -n1 --container-image=debian --container-name=run sh -c 'echo set up >/var/tmp/state'\n\
                  srun -Q -n1 --container-name=run --container-mounts=/opt:/one --container-workdir=/one sh -c 'pwd; cat /var/tmp/state'\n\
                  srun -Q -n1 --container-name=run:exec --no-container-mount-home cat /var/tmp/state 2>&1 | grep -o 'without --parallax-no-mount-home'\n\
                  srun -Q -n2 --container-name=run:exec cat /var/tmp/state\n\
                  srun -Q ls /usr/sbin/slurmd\n";
    on(cluster, || {
        let said = batch_output(cluster, script, &[])?;
        let refusal = "without --parallax-no-mount-home";
        let expected = ["/one", "set up", refusal, "set up", "set up", "/usr/sbin/slurmd", "/usr/sbin/slurmd"];
        ensure!(said.lines().eq(expected), "{said}");
        let done = srun(cluster, &["--container-name=run"], &["ls", "/usr/sbin/slurmd"])?.success()?;
        ensure!(
            done.stdout == "/usr/sbin/slurmd\n" && done.stderr.contains("has no effect without an image"),
            "{done:?}"
        );
        Ok(())
    })
}

fn what_is_wrong_is_told(cluster: &Cluster) -> anyhow::Result<()> {
    let image = "--container-image=debian";
    on(cluster, || {
        for (options, part) in [
            (&[image, "--container-image=python"][..], "--container-image is given twice, with different values"),
            (&[image, "--parallax-image=python"], "--parallax-image and --container-image name different images"),
            (
                &[image, "--container-writable", "--container-readonly"],
                "--container-writable contradicts --container-readonly",
            ),
            (&[image, "--container-save=/x.sqsh"], "podman commit"),
            (&["--container-image=./x.tar"], "the path of a directory or of a SquashFS file"),
            (&["--container-image=debain"], "did you mean \"debian"),
            (
                &[image, "--container-mounts=/opt:/x:rr"],
                "--container-mounts: \"/opt:/x:rr\": the flag \"rr\" is unknown",
            ),
            (
                &[image, "--container-mounts=/opt", "--parallax-mode=podman"],
                "--container-mounts has no effect with --parallax-mode=podman",
            ),
        ] {
            refused(&srun(cluster, options, &["touch", "ran"])?, &[part])?;
        }
        ensure!(!cluster.home("u1").join("ran").exists(), "a step ran");
        let done = srun(cluster, &["--container-mounts=/opt:/one"], &["ls", "/usr/sbin/slurmd"])?.success()?;
        ensure!(done.stderr.contains("warning: --container-mounts has no effect without an image"), "{done:?}");
        Ok(())
    })
}

fn a_task_with_pytorch_finds_the_others(cluster: &Cluster) -> anyhow::Result<()> {
    let show = ["sh", "-c", "echo $MASTER_ADDR $WORLD_SIZE $RANK $LOCAL_RANK $((MASTER_PORT - SLURM_JOB_ID % 4536))"];
    let version = "--parallax-env=PYTORCH_VERSION=2.1";
    on(cluster, || {
        let done = cluster
            .srun("u1", &[&["-N2", "-n2", "--container-image=debian", version][..], &show].concat())?
            .success()?;
        let mut lines: Vec<&str> = done.stdout.lines().collect();
        lines.sort_unstable();
        ensure!(lines == ["n1 2 0 0 61000", "n1 2 1 0 61000"], "{done:?}");
        let done = cluster.srun(
            "u1",
            &[&["-w", "n1", "--parallax-image=debian", version][..], &show[..2], &["echo [$RANK]"]].concat(),
        )?;
        ensure!(done.success()?.stdout == "[]\n", "it is not asked for");
        Ok(())
    })
}

/// Where a node has a plugin with one of these options.
const OTHER: &str = "/usr/lib/slurm/spank_pyxis.so";
const PLUGSTACK: &str = "/etc/slurm/plugstack.conf";

/// Slurm gives an option to the first plugin that has it, and tells the second one nothing.
fn another_plugin_with_these_names_is_told(cluster: &Cluster) -> anyhow::Result<()> {
    let (plugin, headers) = (cluster.path_on("ctl", OTHER)?, cluster.path_on("ctl", "/usr/include")?);
    fs::create_dir_all(plugin.parent().context("no directory")?)?;
    let source = repository().join("tests/plugin/pyxis.c");
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-o"]).args([&plugin, &source]).arg("-idirafter").arg(headers);
    Done::from(compile.output().context("cc")?).success()?;
    let own = "required /usr/lib/parallax/spank_parallax.so names=edf,pyxis\n";
    let both = format!("required {OTHER}\n{own}");
    let tested = with_file(cluster, "ctl", PLUGSTACK, Some(&both), || {
        for command in [&["srun", "-w", "n1", "true"][..], &["sbatch", "--wrap", "true"], &["salloc", "true"]] {
            let parts = [OTHER, "has the options of names=pyxis, too", "the administrator must remove one of them"];
            refused(&cluster.run("ctl", "u1", command)?, &parts)?;
        }
        let doctor = cluster.run("ctl", "root", &["parallax", "doctor", "--json"])?;
        let remedy = format!("remove {OTHER} or names=pyxis");
        ensure!(doctor.code == 1 && doctor.stdout.contains(&remedy), "{doctor:?}");
        Ok(())
    });
    let copy = cluster.path_on("n1", OTHER)?;
    fs::create_dir_all(copy.parent().context("no directory")?)?;
    fs::copy(&plugin, &copy)?;
    fs::remove_file(plugin)?;
    // On a node Slurm hands the option to the plugin that had it in srun.
    let on_node = with_names(cluster, &["ctl"], "edf,pyxis", || {
        with_file(cluster, "n1", PLUGSTACK, Some(&both), || {
            for option in ["--container-image=debian", "--parallax-image=debian"] {
                srun(cluster, &[option], &["test", "!", "-e", "/usr/sbin/slurmd"])?.success()?;
            }
            Ok(())
        })
    });
    fs::remove_file(copy)?;
    tested.and(on_node)
}
