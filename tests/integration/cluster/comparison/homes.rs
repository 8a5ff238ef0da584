//! Users as sites have them: long names, homes that are missing, and homes that only their users can read.

use std::fs;

use anyhow::ensure;
use integration_tests::cluster::Cluster;

use super::{same, same_as};
use crate::cluster::with_file;

tests! { cluster:
    a_user_with_a_long_name,
    a_home_that_is_missing_on_the_node,
    a_home_that_root_cannot_read,
}

const IMAGE: &str = "--parallax-image=debian";
const NODES: [&str; 3] = ["ctl", "n1", "n2"];

/// As a directory service may have it.
const LONG: &str = "maria.of-a-very-long-name@department.of-something.university.example.org";

fn a_user_with_a_long_name(cluster: &Cluster) -> anyhow::Result<()> {
    let home = format!("/home/{LONG}");
    let add = format!(
        "for file in passwd group subuid subgid; do cp -p /etc/$file /etc/$file.before; done
         echo '{LONG}:x:4500:4500:Maria:{home}:/bin/bash' >>/etc/passwd
         echo '{LONG}:x:4500:' >>/etc/group
         for file in subuid subgid; do echo '{LONG}:300000:65536' >>/etc/$file; done"
    );
    let remove = "for file in passwd group subuid subgid; do mv /etc/$file.before /etc/$file; done";
    cluster.shell("ctl", &format!("install -d -o 4500 -g 4500 -m 0700 '{home}'"))?;
    for node in NODES {
        cluster.shell(node, &add)?;
    }
    let tested = (|| {
        let show =
            "sh -c 'id -un; id -gn; whoami; pwd | cut -d/ -f1-3; touch file; stat -c \"%U %G\" file; echo $USER $HOME'";
        let seen = same_as(cluster, LONG, "a long name", &format!("srun -w n1 -n2 $IMAGE {show}"))?;
        ensure!(seen.code == 0 && seen.output.iter().filter(|line| *line == LONG).count() == 6, "{seen:?}");
        let podman = ["-w", "n1", IMAGE, "--parallax-mode=podman", "podman", "run", "--rm", "debian", "id", "-u"];
        ensure!(cluster.srun(LONG, &podman)?.success()?.stdout == "0\n");
        Ok(())
    })();
    for node in NODES {
        cluster.shell(node, remove)?;
    }
    fs::remove_dir_all(cluster.home(LONG))?;
    tested
}

fn a_home_that_is_missing_on_the_node(cluster: &Cluster) -> anyhow::Result<()> {
    let users = cluster.shell("n1", "cat /etc/passwd")?.replace(":/home/u1:", ":/home/missing:");
    with_file(cluster, "n1", "/etc/passwd", Some(&users), || {
        let show = "/bin/sh -c 'echo $HOME; pwd; cd ~ 2>/dev/null || echo missing; id -un'";
        for (case, options) in [("named", ""), ("not named", "--export=NONE")] {
            let seen =
                same(cluster, case, &format!("HOME=/home/missing srun -w n1 --chdir=/tmp {options} $IMAGE {show}"))?;
            ensure!(seen.code == 0 && seen.output.contains(&"/tmp".to_owned()), "{seen:?}");
        }
        Ok(())
    })
}

/// The home, a mount by FUSE without `allow_other`, on the login node and on n1.
const FUSE: &str = "/fuse";

fn with_fuse_home(cluster: &Cluster, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mount = format!(
        "cd {FUSE} && mkdir lower upper work home && mkdir -p upper/data upper/.edf && echo of the home >upper/data/file &&
         mksquashfs upper/data upper/data.sqsh -quiet -no-progress &&
         printf 'image = \"python\"\\nentrypoint = true\\nmounts = [\"${{HOME}}/data:/edf\"]\\n' >upper/.edf/own.toml &&
         fuse-overlayfs -o lowerdir=lower,upperdir=upper,workdir=work home </dev/null >/dev/null 2>&1"
    );
    let nodes = ["ctl", "n1"];
    for node in nodes {
        cluster.shell(node, &format!("install -d -o u1 -g u1 {FUSE}"))?;
        cluster.run(node, "u1", &["sh", "-euc", &mount])?.success()?;
    }
    let seen = cluster.shell("n1", &format!("ls {FUSE}/home 2>&1 || :"))?;
    let tested =
        if seen.contains("Permission denied") { body() } else { Err(anyhow::anyhow!("root can read it: {seen}")) };
    for node in nodes {
        cluster.run(node, "u1", &["fusermount3", "-u", &format!("{FUSE}/home")])?.success()?;
        cluster.shell(node, &format!("rm -r {FUSE}"))?;
    }
    tested
}

/// slurmstepd, which is root with the user's effective id, cannot start a task there: it starts in `/tmp`.
fn a_home_that_root_cannot_read(cluster: &Cluster) -> anyhow::Result<()> {
    with_fuse_home(cluster, || {
        let script = "cd ~ && pwd && cat data/file && echo >own && rm own && echo wrote";
        let line = format!("(cd {FUSE}/home && HOME=$PWD srun -w n1 $IMAGE sh -c '{script}')");
        let seen = same(cluster, "in the home", &line)?;
        ensure!(seen.output == [&format!("{FUSE}/home"), "of the home", "wrote"], "{seen:?}");
        options_lead_into_it(cluster)
    })
}

fn options_lead_into_it(cluster: &Cluster) -> anyhow::Result<()> {
    let run = |command: &str| -> anyhow::Result<String> {
        let line = format!("export HOME={FUSE}/home; cd ~ && {command}");
        Ok(cluster.run("ctl", "u1", &["sh", "-c", &line])?.success()?.stdout)
    };
    let mounts = "--parallax-mount=./data:/data,./data.sqsh:/squash:sqsh,?./none:/none";
    let files = "/data/file /squash/file data/file";
    let said = run(&format!("srun -w n1 {IMAGE} {mounts} --parallax-workdir=$HOME cat {files}"))?;
    ensure!(said == "of the home\n".repeat(3), "{said}");
    let said = run("srun -w n1 --chdir=/tmp --parallax-edf=own sh -c 'cat /edf/file; echo $FROM_ENTRYPOINT'")?;
    ensure!(said == "of the home\nyes\n", "{said}");
    let script = "srun -Q sh -c 'cat /data/file >/var/tmp/kept'; srun -Q cat /var/tmp/kept";
    let job = "--parallax-name=one --parallax-mount=./data:/data --chdir=/tmp --output=/tmp/fuse.out";
    run(&format!("sbatch --quiet --wait -w n1 {IMAGE} {job} --wrap \"{script}\""))?;
    let said = cluster.run("n1", "u1", &["sh", "-c", "cat /tmp/fuse.out; rm /tmp/fuse.out"])?.success()?.stdout;
    ensure!(said == "of the home\n", "{said}");
    let podman = "podman run --rm --volume $HOME/data:/data debian cat /data/file";
    let said = run(&format!("srun -w n1 --chdir=/tmp {IMAGE} --parallax-mode=podman {podman}"))?;
    ensure!(said == "of the home\n", "{said}");
    Ok(())
}
