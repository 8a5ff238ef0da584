//! Images that are SquashFS files, such as those of enroot.

use std::fs;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, Done};
use integration_tests::held::HeldStep;

use super::container::refused;

tests! { cluster:
    a_file_is_an_image_for_its_user_alone,
    what_enroot_writes_into_an_image_holds,
    a_relative_path_belongs_to_where_it_is_written,
    other_names_for_the_image_take_files,
    what_is_no_image_is_told,
    nothing_changes_for_running_steps_when_a_file_is_replaced,
}

/// The shared directory of these tests' files, the home of its user on all nodes.
const FILES: &str = "/home/u1/files";
/// What the image's file for readers says.
const README: &str = "A few programs of Debian.";

/// The start script that `enroot import` writes.
const START_SCRIPT: &str = r#"# enroot-provenance: docker://tiny

mkdir -p "/usr/share" 2> /dev/null
cd "/usr/share" && unset OLDPWD || exit 1

if [ -s /etc/rc.local ]; then
    . /etc/rc.local
fi

if [ $# -gt 0 ]; then
    exec 'sh' '-c' 'echo it runs: "$@"' '-' "$@"
else
    exec 'sh' '-c' 'echo it runs: "$@"' '-'
fi"#;

/// Runs `body` with `tiny.sqsh`, the image "tiny" as `enroot import` makes it, and `text.sqsh`, which is none.
fn with_files(cluster: &Cluster, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let make = format!(
        "rm -rf {FILES}; mkdir {FILES}; cd {FILES}
         umoci unpack --rootless --image /images/tiny:$(umoci ls --layout /images/tiny) bundle
         cat >bundle/rootfs/etc/rc <<'END'
{START_SCRIPT}
END
         echo 'OF_IMAGE=a b' >bundle/rootfs/etc/environment
         mksquashfs bundle/rootfs tiny.sqsh -all-root -quiet -no-progress
         echo text >text.sqsh; rm -r bundle"
    );
    cluster.run("ctl", "u1", &["sh", "-euc", &make])?.success()?;
    let result = body();
    fs::remove_dir_all(cluster.home("u1").join("files"))?;
    result
}

fn run(cluster: &Cluster, options: &[&str], command: &[&str]) -> anyhow::Result<Done> {
    let image = format!("--parallax-image={FILES}/tiny.sqsh");
    cluster.srun("u1", &[&["-w", "n1", &image], options, command].concat())
}

/// Runs a command in a directory of the user's, on the node where jobs are submitted.
fn there(cluster: &Cluster, directory: &str, command: &[&str]) -> anyhow::Result<Done> {
    cluster.run("ctl", "u1", &[&["sh", "-c", "cd $0 && exec \"$@\"", directory], command].concat())
}

fn a_file_is_an_image_for_its_user_alone(cluster: &Cluster) -> anyhow::Result<()> {
    with_files(cluster, || {
        let script = "cat /usr/share/doc/tiny/README; id -u; stat -c %U /usr; touch ~/files/own; stat -c %U ~/files/own; \
                      touch /usr/new && rm /etc/debian_version && stat -c %U /usr/new";
        for (userns, expected) in
            [("keep-id", &[README, "1001", "root", "u1"][..]), ("root", &[README, "0", "root", "root", "root"])]
        {
            let done = run(cluster, &[&format!("--parallax-userns={userns}")], &["sh", "-c", script])?;
            ensure!(done.stdout.lines().eq(expected.iter().copied()), "{done:?}");
            ensure!(!done.stderr.contains("parallax:"), "{done:?}");
        }
        // Many tasks on several nodes; another user, without subordinate ids; one who may not read it.
        let image = format!("--parallax-image={FILES}/tiny.sqsh");
        let read = ["cat", "/usr/share/doc/tiny/README"];
        let done = cluster.srun("u1", &[&["-N2", "-n4", "--overcommit", &image], &read[..]].concat())?.success()?;
        ensure!(done.stdout == format!("{README}\n").repeat(4), "{done:?}");
        cluster
            .run("ctl", "root", &["sh", "-c", "install -m 644 /home/u1/files/tiny.sqsh /shared/tiny.sqsh"])?
            .success()?;
        let shared = cluster.srun("u3", &[&["-w", "n1", "--parallax-image=/shared/tiny.sqsh"], &read[..]].concat());
        cluster.run("ctl", "root", &["chmod", "600", "/shared/tiny.sqsh"])?.success()?;
        let closed = cluster.srun("u3", &["-w", "n1", "--parallax-image=/shared/tiny.sqsh", "id"]);
        cluster.run("ctl", "root", &["rm", "/shared/tiny.sqsh"])?.success()?;
        let shared = shared?.success()?;
        ensure!(shared.stdout == format!("{README}\n"), "{shared:?}");
        refused(&closed?, &["/shared/tiny.sqsh", "Permission denied"])
    })
}

fn what_enroot_writes_into_an_image_holds(cluster: &Cluster) -> anyhow::Result<()> {
    with_files(cluster, || {
        let show = ["sh", "-c", "echo $OF_IMAGE; pwd"];
        let done = run(cluster, &[], &show)?.success()?;
        ensure!(done.stdout == "a b\n/home/u1\n", "{done:?}");
        let done = run(cluster, &["--parallax-entrypoint", "--parallax-env=OF_IMAGE=c"], &["a", "b"])?.success()?;
        ensure!(done.stdout == "it runs: a b\n", "{done:?}");
        let done = run(cluster, &["--parallax-no-mount-home", "--chdir=/home/u1"], &show)?.success()?;
        ensure!(done.stdout == "a b\n/usr/share\n", "{done:?}");
        Ok(())
    })
}

fn a_relative_path_belongs_to_where_it_is_written(cluster: &Cluster) -> anyhow::Result<()> {
    with_files(cluster, || {
        let read = "cat /usr/share/doc/tiny/README";
        let step = ["srun", "-w", "n1", "--parallax-image=./tiny.sqsh", "--chdir=/", "sh", "-c", read];
        let done = there(cluster, FILES, &step)?.success()?;
        ensure!(done.stdout == format!("{README}\n"), "{done:?}");
        // In a job, wherever its script goes.
        let script =
            format!("cd /; srun {read}; srun --parallax-image=none ls /usr/share/doc/tiny; cd {FILES}/..; srun {read}");
        for (directory, image) in
            [(FILES, "./tiny.sqsh"), ("/home/u1", "./files/tiny.sqsh"), (FILES, "../files/tiny.sqsh")]
        {
            let image = format!("--parallax-image={image}");
            let submit =
                ["sbatch", "--wait", "--quiet", "-w", "n1", "--output=/home/u1/files/out", &image, "--wrap", &script];
            there(cluster, directory, &submit)?.success()?;
            let out = fs::read_to_string(cluster.home("u1").join("files/out"))?;
            ensure!(out.matches(README).count() == 2 && out.contains("No such file"), "{out}");
        }
        let both = [
            "srun",
            "-w",
            "n1",
            "-n1",
            "--parallax-image=./tiny.sqsh",
            "cat",
            "/usr/share/doc/tiny/README",
            ":",
            "-n1",
            "--parallax-image=./tiny.sqsh",
            "cat",
            "/usr/share/doc/tiny/README",
        ];
        let done = there(cluster, FILES, &both)?.success()?;
        ensure!(done.stdout == format!("{README}\n").repeat(2), "{done:?}");
        let bare =
            ["srun", "--export=NONE", "-w", "n1", "--parallax-image=./tiny.sqsh", "cat", "/usr/share/doc/tiny/README"];
        let bare = there(cluster, FILES, &bare)?.success()?;
        ensure!(bare.stdout == format!("{README}\n"), "{bare:?}");
        Ok(())
    })
}

fn other_names_for_the_image_take_files(cluster: &Cluster) -> anyhow::Result<()> {
    with_files(cluster, || {
        fs::write(cluster.home("u1").join("files/a.toml"), "image = \"./tiny.sqsh\"\nentrypoint = true\n")?;
        let edf = there(cluster, FILES, &["srun", "-w", "n1", "--parallax-edf=./a.toml", "x"])?.success()?;
        ensure!(edf.stdout == "it runs: x\n", "{edf:?}");
        let variable = "PARALLAX_IMAGE=./tiny.sqsh";
        let read = ["env", variable, "srun", "-w", "n1", "cat", "/usr/share/doc/tiny/README"];
        let by_variable = there(cluster, FILES, &read)?.success()?;
        ensure!(by_variable.stdout == format!("{README}\n"), "{by_variable:?}");
        Ok(())
    })
}

fn what_is_no_image_is_told(cluster: &Cluster) -> anyhow::Result<()> {
    with_files(cluster, || {
        let step = |more: &[&str]| cluster.srun("u1", &[&["-w", "n1"], more, &["id"]].concat());
        let image = |name: &str| format!("--parallax-image={FILES}/{name}");
        refused(&step(&[&image("text.sqsh")])?, &["text.sqsh", "SquashFS"])?;
        refused(&step(&[&image("none.sqsh")])?, &["no such directory or file", "on the node n1"])?;
        cluster.run(
            "ctl",
            "u1",
            &["sh", "-c", "cd files; mkdir x; echo >x/y; mksquashfs x x.sqsh -quiet -no-progress"],
        )?;
        refused(&step(&[&image("x.sqsh")])?, &["x.sqsh on the node n1 as an image: it is not a root file system"])?;
        let tiny = image("tiny.sqsh");
        let wrap = format!("srun {tiny} --parallax-name=a id 2>&1");
        let named = ["sbatch", "--wait", "--quiet", "-w", "n1", "--output=/home/u1/files/out", "--wrap", &wrap];
        let named = cluster.run("ctl", "u1", &named)?;
        let said = fs::read_to_string(cluster.home("u1").join("files/out"))?;
        ensure!(
            named.code == 125 && said.contains("tiny.sqsh in a container with a --parallax-name"),
            "{named:?} {said}"
        );
        let podman = step(&[&image("tiny.sqsh"), "--parallax-mode=podman"])?.success()?;
        ensure!(podman.stderr.contains("tiny.sqsh is a file: tasks in run mode"), "{podman:?}");
        Ok(())
    })
}

/// Users write a new file and move it to its place, as editors and build scripts do.
fn nothing_changes_for_running_steps_when_a_file_is_replaced(cluster: &Cluster) -> anyhow::Result<()> {
    with_files(cluster, || {
        let image = format!("--parallax-image={FILES}/tiny.sqsh");
        let script = "echo started; read go; cat /usr/share/doc/tiny/README";
        let mut step = HeldStep::start(cluster, "u1", &["-w", "n1", &image], 1, script)?;
        let status = cluster.agent_status("n1")?;
        let source = status.steps.first().and_then(|step| step.source.as_ref()).context("no source")?;
        ensure!(source.kind == "SquashFS file" && source.backend == "native", "{source:?}");
        cluster.run("ctl", "u1", &["sh", "-c", "cd files; mv text.sqsh tiny.sqsh"])?.success()?;
        step.write_line("go")?;
        ensure!(step.read_line()? == README);
        step.finish()?;
        refused(&run(cluster, &[], &["id"])?, &["SquashFS"])
    })
}
