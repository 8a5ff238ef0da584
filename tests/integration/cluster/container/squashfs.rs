//! SquashFS files of users, shown in the container.

use std::fs;

use anyhow::ensure;
use integration_tests::cluster::{Cluster, Done};
use integration_tests::held::HeldStep;

use super::refused;

tests! { cluster:
    the_contents_of_a_file_are_shown,
    two_steps_do_not_share_what_ends_with_one,
    a_file_that_cannot_be_shown_is_told,
    a_container_of_several_steps_has_none,
    a_file_in_an_environment_definition_file,
    components_and_steps_without_an_environment_have_it,
}

const IMAGE: &str = "--parallax-image=debian";
/// The shared directory of these tests' files, the home of its user on all nodes.
const DATA: &str = "/home/u1/squashfs";

/// Runs `body` with the files `one.sqsh` and `two.sqsh`, which the user has made.
fn with_files(cluster: &Cluster, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let make = format!(
        "mkdir -p {DATA}/tree && cd {DATA} && echo one >tree/name && chmod 600 tree/name && mkdir tree/empty\n\
         mksquashfs tree one.sqsh -quiet -no-progress -all-root\n\
         echo two >tree/name && mksquashfs tree two.sqsh -quiet -no-progress\n\
         echo text >text.sqsh"
    );
    cluster.run("ctl", "u1", &["sh", "-euc", &make])?.success()?;
    let result = body();
    fs::remove_dir_all(cluster.home("u1").join("squashfs"))?;
    result
}

/// Runs a script with a mount in the image.
fn with(cluster: &Cluster, options: &[&str], mount: &str, script: &str) -> anyhow::Result<Done> {
    let mount = format!("--parallax-mount={mount}");
    cluster.srun("u1", &[options, &[IMAGE, &mount, "sh", "-c", script]].concat())
}

fn the_contents_of_a_file_are_shown(cluster: &Cluster) -> anyhow::Result<()> {
    with_files(cluster, || {
        let two = format!(
            "{DATA}/one.sqsh:/data/one:sqsh,{DATA}/two.sqsh:/data/two:sqsh+rw,?{DATA}/none.sqsh:/data/none:sqsh"
        );
        let script = "cat /data/*/name; stat -c '%u %a' /data/*/name; stat -f -c %T /data/one; ls /data; \
                      touch /data/one/x /data/two/empty/x 2>/dev/null || echo read-only";
        let done = with(cluster, &["-w", "n1"], &two, script)?.success()?;
        let expected = "one\ntwo\n0 600\n1001 600\nfuse\none\ntwo\nread-only\n";
        ensure!(done.stdout == expected, "{done:?}");
        // As many tasks as one likes, on several nodes, from wherever the user stands.
        let relative = "./one.sqsh:/data:ro,sqsh";
        let options = ["-N2", "-n4", "--overcommit", "--chdir", DATA];
        let mount = format!("--parallax-mount={relative}");
        let line = [&["srun"], &options[..], &[IMAGE, &mount, "cat", "/data/name"]].concat();
        let here = format!("cd {DATA} && exec \"$@\"");
        let done = cluster.run("ctl", "u1", &[&["sh", "-c", &here, "sh"], &line[..]].concat())?.success()?;
        ensure!(done.stdout == "one\n".repeat(4), "{done:?}");
        // Nothing serves the files after their steps.
        let left = cluster.shell("n1", "pgrep -c squashfuse || true")?;
        ensure!(left.trim() == "0", "{left}");
        Ok(())
    })
}

fn two_steps_do_not_share_what_ends_with_one(cluster: &Cluster) -> anyhow::Result<()> {
    with_files(cluster, || {
        let mount = format!("--parallax-mount={DATA}/one.sqsh:/d:sqsh");
        let script = "echo started; while read line; do cat /d/name; done";
        let start = || HeldStep::start(cluster, "u1", &["-w", "n1", IMAGE, &mount], 1, script);
        let (first, mut second) = (start()?, start()?);
        first.finish()?;
        second.write_line("go on")?;
        ensure!(second.read_line()? == "one");
        second.finish()
    })
}

fn a_file_that_cannot_be_shown_is_told(cluster: &Cluster) -> anyhow::Result<()> {
    with_files(cluster, || {
        let step = |mount: &str| with(cluster, &["-w", "n1"], mount, "true");
        let missing = format!("{DATA}/none.sqsh");
        let said = [&*missing, "No such file", "on the node n1", "leaves it out"];
        refused(&step(&format!("{missing}:/d:sqsh"))?, &said)?;
        refused(&step(&format!("{DATA}/tree:/d:sqsh"))?, &["tree: it is no file on the node n1"])?;
        refused(&step(&format!("{DATA}/text.sqsh:/d:sqsh"))?, &["text.sqsh", "SquashFS"])?;
        refused(&step("/etc/shadow:/d:sqsh")?, &["/etc/shadow", "Permission denied"])?;
        let done = step("tmpfs:/d:sqsh")?;
        ensure!(done.code != 0 && done.stderr.contains("the flag \"sqsh\""), "{done:?}");
        Ok(())
    })
}

fn a_container_of_several_steps_has_none(cluster: &Cluster) -> anyhow::Result<()> {
    with_files(cluster, || {
        let step = format!("srun {IMAGE} --parallax-name=a --parallax-mount={DATA}/one.sqsh:/d:sqsh true");
        let output = format!("--output={DATA}/out");
        let line = ["sbatch", "--wait", "--quiet", "-w", "n1", &output, "--wrap", &step];
        let done = cluster.run("ctl", "u1", &line)?;
        let said = fs::read_to_string(cluster.home("u1").join("squashfs/out"))?;
        let parts = ["one.sqsh in a container with a --parallax-name", "ends with its step"];
        ensure!(done.code == 125 && parts.iter().all(|part| said.contains(part)), "{done:?} {said}");
        Ok(())
    })
}

fn a_file_in_an_environment_definition_file(cluster: &Cluster) -> anyhow::Result<()> {
    with_files(cluster, || {
        let text = format!("image = \"debian\"\nmounts = [\"{DATA}/two.sqsh:/d:sqsh\"]\n");
        fs::write(cluster.home("u1").join("squashfs/a.toml"), text)?;
        let edf = format!("--parallax-edf={DATA}/a.toml");
        let done = cluster.srun("u1", &["-w", "n1", &edf, "cat", "/d/name"])?.success()?;
        ensure!(done.stdout == "two\n", "{done:?}");
        Ok(())
    })
}

/// The request travels in a variable of its own.
fn components_and_steps_without_an_environment_have_it(cluster: &Cluster) -> anyhow::Result<()> {
    with_files(cluster, || {
        let mount = format!("--parallax-mount={DATA}/one.sqsh:/data:sqsh");
        let component = |node| ["-n1", "-w", node, IMAGE, &mount, "cat", "/data/name"];
        let done = cluster.srun("u1", &[&component("n1")[..], &[":"], &component("n2")].concat())?.success()?;
        ensure!(done.stdout == "one\none\n", "{done:?}");
        for export in ["--export=NONE", "--export=A=1"] {
            let done = with(cluster, &["-w", "n1", export], &format!("{DATA}/one.sqsh:/data:sqsh"), "cat /data/name")?;
            ensure!(done.success()?.stdout == "one\n", "{export}");
        }
        // A job hands it on.
        let script = "srun -n1 cat /data/name; srun -n1 --export=NONE cat /data/name; srun -n1 cat /data/name : -n1 cat /data/name";
        let output = format!("--output={DATA}/out");
        let line = ["sbatch", "--wait", "--quiet", "-N2", "-n2", &output, IMAGE, &mount, "--wrap", script];
        let done = cluster.run("ctl", "u1", &line)?;
        let said = fs::read_to_string(cluster.home("u1").join("squashfs/out"))?;
        let own: Vec<&str> = said.lines().filter(|line| !line.starts_with("srun: ")).collect();
        ensure!(done.code == 0 && own == ["one"; 4], "{done:?} {said}");
        Ok(())
    })
}
