//! The user as root in the container (`--parallax-userns=root`), and a `/tmp` of the step's own.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, Done};

use crate::cluster::backend::{STORE, with_config};

tests! { cluster:
    the_user_is_root_in_the_container,
    root_in_the_container_changes_owners,
    root_in_the_container_is_the_user_on_the_node,
    a_user_without_subordinate_ids_is_root_too,
    a_step_may_have_a_tmp_of_its_own,
}

const ROOT: &str = "--parallax-userns=root";

fn shell(cluster: &Cluster, user: &str, options: &[&str], script: &str) -> anyhow::Result<Done> {
    cluster.srun(user, &[&["-w", "n1", "--parallax-image=debian"], options, &["sh", "-c", script]].concat())
}

fn the_user_is_root_in_the_container(cluster: &Cluster) -> anyhow::Result<()> {
    let show = "id -u; id -g; id -un; echo $HOME; pwd; stat -c %u / /etc/passwd $HOME; grep -c u1 /etc/passwd";
    let done = shell(cluster, "u1", &[ROOT], show)?;
    ensure!(done.stdout == "0\n0\nroot\n/home/u1\n/home/u1\n0\n0\n0\n0\n", "{done:?}");
    let done = shell(cluster, "u1", &["--parallax-userns=keep-id"], "id -u; id -un")?.success()?;
    ensure!(done.stdout == "1001\nu1\n", "{done:?}");
    // A step's option wins over its job's.
    let srun = ["env", "PARALLAX_USERNS=root", "srun", "-Q", "-w", "n1", "--parallax-image=debian"];
    let of = |options: &[&str]| cluster.run("ctl", "u1", &[&srun[..], options, &["id", "-u"]].concat())?.success();
    ensure!(of(&[])?.stdout == "0\n" && of(&["--parallax-userns=keep-id"])?.stdout == "1001\n", "the variable");
    Ok(())
}

/// As apt and dpkg do it: owners of the image's files, of new ones, and becoming another user.
fn root_in_the_container_changes_owners(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "set -e; chown daemon:daemon /etc/hostname /usr/bin/env; stat -c %U:%G /usr/bin/env; \
                  install -o bin -g bin -m 4755 /bin/true /usr/local/bin/new; stat -c '%U %a' /usr/local/bin/new; \
                  ln -s x /usr/local/bin/link; chown -h games /usr/local/bin/link; stat -c %U /usr/local/bin/link; \
                  dpkg-divert --local --rename --add /usr/bin/true >/dev/null; dpkg-divert --list | grep -c /true; \
                  setpriv --reuid=nobody --regid=nogroup --clear-groups sh -c 'id -un; touch /etc/x' 2>/dev/null || echo denied";
    let done = shell(cluster, "u1", &[ROOT], script)?.success()?;
    ensure!(done.stdout == "daemon:daemon\nbin 4755\ngames\n1\nnobody\ndenied\n", "{done:?}");
    let done = shell(cluster, "u1", &[], "chown daemon /usr/bin/env 2>/dev/null || echo denied")?.success()?;
    ensure!(done.stdout == "denied\n", "{done:?}");
    Ok(())
}

fn root_in_the_container_is_the_user_on_the_node(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "touch $HOME/by-root; cat /proc/1/environ >/dev/null 2>&1 || echo closed; \
                  chown daemon $HOME/by-root 2>/dev/null && echo changed; echo >/proc/sys/kernel/hostname 2>/dev/null || echo kept; \
                  mknod /usr/null c 1 3 2>/dev/null || echo no device; mount -t tmpfs none /mnt 2>/dev/null || echo no mount";
    let done = shell(cluster, "u1", &[ROOT], script)?;
    let file = cluster.home("u1").join("by-root");
    let owner = fs::metadata(&file)?.uid();
    fs::remove_file(&file)?;
    // Subordinate ids are the user's, so the file may be given to one of them, as by any program of the user's (podman unshare).
    ensure!(done.stdout == "closed\nchanged\nkept\nno device\nno mount\n", "{done:?}");
    ensure!(owner != 0 && owner != 1, "the file is {owner}'s");
    Ok(())
}

/// The image's files are root's, and root is the user: no other id is needed.
fn a_user_without_subordinate_ids_is_root_too(cluster: &Cluster) -> anyhow::Result<()> {
    let done = cluster
        .srun("u3", &["-w", "n1", "--parallax-image=debian", ROOT, "sh", "-c", "id -u; : >/etc/new && echo wrote"])?;
    ensure!(done.code == 0 && done.stdout == "0\nwrote\n", "{done:?}");
    Ok(())
}

fn a_step_may_have_a_tmp_of_its_own(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "ls /tmp; : >/tmp/of-the-step; stat -c '%a' /tmp; ls /tmp/job.1; : >/tmp/job.1/new; grep -c ' /tmp ' /proc/self/mountinfo";
    cluster.shell("n1", "install -d -o u1 /tmp/job.1 && : >/tmp/job.1/there && : >/tmp/of-the-node")?;
    let mut done = None;
    let tested = with_config(cluster, "n1", &format!("{STORE}[run]\ntmp = \"step\"\n"), || {
        let srun = [
            "env",
            "TMPDIR=/tmp/job.1",
            "srun",
            "-Q",
            "-w",
            "n1",
            "-n2",
            "--parallax-image=debian",
            "sh",
            "-c",
            script,
        ];
        done = Some(cluster.run("ctl", "u1", &srun)?);
        Ok(())
    });
    let left = cluster.shell("n1", "ls /tmp /tmp/job.1; rm -r /tmp/job.1 /tmp/of-the-node")?;
    tested?;
    let done = done.context("no step")?;
    ensure!(done.code == 0 && done.stdout.contains("1777") && !done.stdout.contains("of-the-node"), "{done:?}");
    ensure!(done.stdout.contains("there") && left.contains("new") && !left.contains("of-the-step"), "{done:?} {left}");
    Ok(())
}
