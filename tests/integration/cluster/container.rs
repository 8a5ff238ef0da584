//! What the container of run mode shows beside the image (the table in docs/users.md), and what a task in it has as without one.

use std::collections::BTreeSet;
use std::fs;

use anyhow::ensure;
use integration_tests::cluster::{Cluster, Done};
use integration_tests::held::HeldStep;

use super::backend::{STORE, with_config};
use super::{odd_images, with_file};

pub(crate) mod devices;
pub(crate) mod hooks;
pub(crate) mod squashfs;

tests! { cluster:
    what_a_container_shows,
    names_are_added_to_those_of_the_image,
    mount_points_appear_and_stay_inside_the_root,
    an_image_cannot_lead_files_of_the_node_elsewhere,
    volumes_of_an_image_are_not_copied,
    a_program_for_another_processor_is_told_from_a_broken_one,
    directories_for_mpi_are_shown,
    a_directory_of_pmix_that_no_variable_names_is_shown,
    a_directory_of_pmix_is_shown_in_a_tmp_of_the_step,
    a_task_has_what_it_has_without_a_container,
    the_holder_has_nothing_of_a_task,
}

const IMAGE: &str = "--parallax-image=debian";

/// Runs a script in the image on n1.
fn inside(cluster: &Cluster, image: &str, script: &str) -> anyhow::Result<Done> {
    cluster.srun("u1", &["-w", "n1", image, "sh", "-c", script])?.success()
}

/// Makes sure that a step was refused with one sentence that has all these parts.
pub(super) fn refused(done: &Done, parts: &[&str]) -> anyhow::Result<()> {
    let lines: Vec<&str> = done.stderr.lines().filter(|line| line.starts_with("parallax: ")).collect();
    ensure!(done.code == 125 && lines.len() == 1, "not one sentence: {done:?}");
    for part in parts {
        ensure!(lines[0].contains(part), "no {part:?} in {:?}", lines[0]);
    }
    Ok(())
}

fn what_a_container_shows(cluster: &Cluster) -> anyhow::Result<()> {
    // Each line is one row of the table: a word for it, if it is as it is to be.
    let script = r#"
        mount() { grep -c " $1 " /proc/self/mountinfo >/dev/null; }
        mount /proc && test -e /proc/self/status && echo proc
        grep -q ' /sys ro,' /proc/self/mountinfo && test -d /sys/class && echo sys
        test -c /dev/null && test -e /dev/fuse && echo dev
        echo shm >/dev/shm/of-the-task && cat /dev/shm/of-the-task
        echo tmp >/tmp/of-the-task && cat /tmp/of-the-task
        for file in resolv.conf hosts hostname localtime machine-id; do md5sum </etc/$file; done
        id -un; id -gn; getent group licensed | cut -d: -f1
        getent passwd daemon | cut -d: -f1,3; getent group daemon | cut -d: -f1,3
        grep -c 'engine="parallax"' /run/.containerenv
        touch /home/u1/of-the-task && echo home
        hostname; pwd
    "#;
    let on_node = |script: &str| cluster.run("n1", "u1", &["sh", "-c", script]);
    let files = ["resolv.conf", "hosts", "hostname", "localtime", "machine-id"];
    for file in files {
        cluster.shell("n1", &format!("test -s /etc/{file} || date +%N >/etc/{file}"))?;
    }
    let done = inside(cluster, IMAGE, script)?;
    let sums = on_node(&files.map(|file| format!("md5sum </etc/{file};")).concat())?.success()?.stdout;
    let left =
        on_node("cat /dev/shm/of-the-task /tmp/of-the-task && rm /dev/shm/of-the-task /tmp/of-the-task ~/of-the-task")?;
    let expected =
        format!("proc\nsys\ndev\nshm\ntmp\n{sums}u1\nu1\nlicensed\ndaemon:1\ndaemon:1\n1\nhome\nn1\n/home/u1\n");
    ensure!(done.stdout == expected, "{done:?}\nexpected: {expected}");
    ensure!(left.code == 0 && left.stdout == "shm\ntmp\n", "/dev/shm and /tmp are not the node's: {left:?}");
    Ok(())
}

/// An image whose `/etc/passwd` leads elsewhere, which has no `/etc/group`, and in which somebody else has the user's id.
fn names_are_added_to_those_of_the_image(cluster: &Cluster) -> anyhow::Result<()> {
    odd_images::with_case(cluster, "accounts", || {
        let script = "id -un; id -gn; getent passwd 1001 7; test -L /etc/passwd || echo file; cat /opt/passwd; \
                      stat -c %a:%u /etc/passwd /etc/group";
        let done = inside(cluster, "--parallax-image=odd-accounts", script)?;
        let entries = "app:x:1001:7::/:/bin/sh\nlp:x:7:7::/:/bin/sh\n";
        let expected =
            format!("u1\nu1\nu1:x:1001:1001::/home/u1:/bin/bash\nlp:x:7:7::/:/bin/sh\nfile\n{entries}644:0\n644:0\n");
        ensure!(done.stdout == expected, "{done:?}");
        Ok(())
    })
}

fn mount_points_appear_and_stay_inside_the_root(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.shell("n1", "mkdir -p /srv/site/sub; echo of the site >/srv/site/file")?;
    let config = "stores = [\"/shared/store\"]\n[run]\nmounts = [\"/srv/site:/new/deep\", \"/srv/site/file:/opt/new/file:ro\", \
                  \"/srv/site:/out/data\", \"/srv/site:/way/data:ro\"]\n";
    let tested = odd_images::with_case(cluster, "names", || {
        with_config(cluster, "n1", config, || {
            // /out leads to /real, which would be the node's if links led out of the root; /way leads to /real/dir.
            let script = "cat /new/deep/file /opt/new/file /real/data/file /real/dir/data/file; \
                          for place in /opt/new /way/data /real/dir/data; do touch $place/x 2>/dev/null && echo wrote $place; done; true";
            let done = inside(cluster, "--parallax-image=odd-names", script)?;
            ensure!(done.stdout == "of the site\n".repeat(4), "{done:?}");
            Ok(())
        })
    });
    let outside = cluster.shell("n1", "ls -d /real /new /opt/new 2>/dev/null || :; rm -r /srv/site")?;
    ensure!(outside.is_empty(), "mount points were made on the node: {outside}");
    tested
}

/// The links of an image would lead what is written for the container to files of the node.
fn an_image_cannot_lead_files_of_the_node_elsewhere(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.shell("n1", "install -d -m 0777 /srv/victim; cp -a /etc/hosts /srv/victim/before")?;
    let tested = odd_images::with_case(cluster, "led-astray", || {
        let script = "cat /etc/hosts; test -L /etc/hosts || echo file; test -e /etc/group && echo group";
        let done = inside(cluster, "--parallax-image=odd-led-astray", script)?;
        let hosts = cluster.shell("n1", "cat /etc/hosts")?;
        ensure!(done.stdout == format!("{hosts}file\ngroup\n"), "{done:?}");
        Ok(())
    });
    let seen = cluster.shell("n1", "ls /srv/victim; cmp /etc/hosts /srv/victim/before; rm -r /srv/victim")?;
    ensure!(seen == "before\n", "something was written on the node: {seen}");
    tested
}

/// The writable layer has what the task writes, and what the launcher wrote for it.
fn volumes_of_an_image_are_not_copied(cluster: &Cluster) -> anyhow::Result<()> {
    odd_images::with_case(cluster, "volume", || {
        let script = "test $(stat -c %s /data/large) = 67108864 && touch /data/own && ls /data && df --output=used -k / | tail -n1";
        let done = inside(cluster, "--parallax-image=odd-volume", script)?;
        let words: Vec<&str> = done.stdout.split_whitespace().collect();
        let [large, own, used] = words[..] else { anyhow::bail!("{done:?}") };
        ensure!(large == "large" && own == "own" && used.parse::<u32>()? < 1024, "{done:?}");
        Ok(())
    })
}

fn a_program_for_another_processor_is_told_from_a_broken_one(cluster: &Cluster) -> anyhow::Result<()> {
    odd_images::with_case(cluster, "foreign", || {
        let done = cluster.srun("u1", &["-w", "n1", "--parallax-image=odd-foreign", "app"])?;
        let architecture = cluster.shell("n1", "dpkg --print-architecture")?;
        let expected = format!(
            "parallax: cannot execute \"app\": Exec format error (image \"odd-foreign\", which is for linux/arm64 and not for this \
             node, linux/{})\n",
            architecture.trim()
        );
        ensure!(done.code == 126 && done.stderr.starts_with(&expected), "{done:?}");
        Ok(())
    })
}

fn directories_for_mpi_are_shown(cluster: &Cluster) -> anyhow::Result<()> {
    let make = "mkdir -p /var/spool/slurmd/pmix.1.0 && echo of the server >/var/spool/slurmd/pmix.1.0/file";
    cluster.shell("n1", make)?;
    let run = |value: &str| {
        let variable = format!("PMIX_SERVER_TMPDIR={value}");
        let script = "cat $PMIX_SERVER_TMPDIR/file";
        cluster.run("ctl", "u1", &["env", &variable, "srun", "-w", "n1", IMAGE, "sh", "-c", script])
    };
    let (shown, missing) = (run("/var/spool/slurmd/pmix.1.0"), run("/var/spool/slurmd/none"));
    cluster.shell("n1", "rm -r /var/spool/slurmd/pmix.1.0")?;
    let (shown, missing) = (shown?.success()?, missing?);
    ensure!(shown.stdout == "of the server\n", "{shown:?}");
    ensure!(missing.code == 1 && !missing.stderr.contains("parallax: "), "{missing:?}");
    Ok(())
}

/// As Slurm's own plugin makes it, where mpi.conf says.
fn a_directory_of_pmix_that_no_variable_names_is_shown(cluster: &Cluster) -> anyhow::Result<()> {
    let restart = || cluster.service("n1", "stop", "slurmd").and_then(|()| cluster.service("n1", "start", "slurmd"));
    cluster.shell("n1", "mkdir -m 1777 /srv/pmix; echo PMIxCliTmpDirBase=/srv/pmix >/etc/slurm/mpi.conf")?;
    let script = "ls -d /srv/pmix/spmix_appdir_*.$SLURM_STEP_ID $PMIX_SERVER_TMPDIR && cd /srv/pmix/spmix_* && touch x";
    let done = restart().and_then(|()| cluster.srun("u1", &["--mpi=pmix", "-w", "n1", IMAGE, "sh", "-c", script]));
    cluster.shell("n1", "rm -r /srv/pmix /etc/slurm/mpi.conf")?;
    restart()?;
    let done = done?.success()?;
    ensure!(done.stdout.lines().count() == 2, "{done:?}");
    Ok(())
}

/// There the node's `/tmp`, in which Slurm makes the directory unless it is told otherwise, is not shown.
fn a_directory_of_pmix_is_shown_in_a_tmp_of_the_step(cluster: &Cluster) -> anyhow::Result<()> {
    let restart = || cluster.service("n1", "stop", "slurmd").and_then(|()| cluster.service("n1", "start", "slurmd"));
    let own_tmp = format!("{STORE}[run]\ntmp = \"step\"\n");
    let script = |base: &str| {
        format!(
            "cd {base}/spmix_appdir_*.$SLURM_STEP_ID && touch x && ls -d $PMIX_SERVER_TMPDIR; ls /tmp | grep -v ^spmix_ | wc -l"
        )
    };
    let seen = |base: &str| -> anyhow::Result<()> {
        let done = cluster.srun("u1", &["--mpi=pmix", "-w", "n1", IMAGE, "sh", "-c", &script(base)])?.success()?;
        let below = usize::from(base.starts_with("/tmp/"));
        ensure!(done.stdout.ends_with(&format!("/\n{below}\n")), "{base}: {done:?}");
        Ok(())
    };
    cluster.shell("n1", "mkdir -m 1777 /tmp/base; touch /tmp/of-the-node")?;
    let result = with_config(cluster, "n1", &own_tmp, || {
        seen("/tmp")?;
        cluster.shell("n1", "echo PMIxCliTmpDirBase=/tmp/base >/etc/slurm/mpi.conf")?;
        let below = restart().and_then(|()| seen("/tmp/base"));
        cluster.shell("n1", "rm /etc/slurm/mpi.conf")?;
        below
    });
    cluster.shell("n1", "rm -r /tmp/base /tmp/of-the-node")?;
    restart()?;
    result?;
    // A directory that has the node's name.
    let slurm = cluster.shell("n1", "cat /etc/slurm/slurm.conf")? + "TmpFS=/srv/%h-%n\n";
    cluster.shell("n1", "mkdir -m 1777 /srv/n1-n1")?;
    let result = with_file(cluster, "n1", "/etc/slurm/slurm.conf", Some(&slurm), || {
        restart()?;
        let script = "cd /srv/n1-n1/spmix_appdir_*.$SLURM_STEP_ID && touch x && pwd";
        cluster.srun("u1", &["--mpi=pmix", "-w", "n1", IMAGE, "sh", "-c", script])?.success().map(drop)
    });
    cluster.shell("n1", "rm -r /srv/n1-n1")?;
    restart()?;
    result
}

/// What a process inherits is compared with the same step without an image.
fn a_task_has_what_it_has_without_a_container(cluster: &Cluster) -> anyhow::Result<()> {
    let script = r#"
        umask; ulimit -a; nice
        grep -E "^(Uid|Gid|NoNewPrivs|Seccomp|Cpus_allowed_list|Mems_allowed_list|SigBlk|SigIgn|SigCgt):" /proc/self/status
        grep ^Groups /proc/self/status | wc -w
        cat /proc/self/cgroup /proc/self/oom_score_adj /proc/self/coredump_filter
        ls -l /proc/self/fd | grep -c -v proc
        for kind in cgroup ipc net pid time uts; do readlink /proc/self/ns/$kind; done
        hostname; uname -n
    "#;
    let outer = format!("umask 027; ulimit -n 400; ulimit -c 0; nice -n 3 srun -w n1 -n2 \"$@\" sh -c '{script}'");
    let run = |options: &[&str]| {
        let line = [&["bash", "-c", &outer, "bash"], options].concat();
        cluster.run("ctl", "u1", &line)?.success()
    };
    let (without, with) = (run(&[])?, run(&[IMAGE])?);
    let lines = |done: &Done| -> BTreeSet<String> { done.stdout.lines().map(str::to_owned).collect() };
    let (without, with) = (lines(&without), lines(&with));
    let differences: Vec<_> = without.symmetric_difference(&with).collect();
    ensure!(without.len() > 20 && differences.is_empty(), "{differences:#?}");
    Ok(())
}

/// The process that keeps the container: no descriptor of a task's, no privilege, no terminal.
fn the_holder_has_nothing_of_a_task(cluster: &Cluster) -> anyhow::Result<()> {
    let step = HeldStep::start(cluster, "u1", &["-w", "n1", "-n2", IMAGE], 2, "echo started")?;
    let script = "pid=$(pgrep -x parallax-hold); echo $pid | wc -w; ls /proc/$pid/fd | wc -l; readlink /proc/$pid/fd/* | sort -u; \
                  grep -E '^Cap(Inh|Prm|Eff|Amb):' /proc/$pid/status | grep -cv 0000000000000000 || :; \
                  grep -E '^Uid' /proc/$pid/status | cut -f2; wc -l </proc/$pid/mountinfo";
    let seen = cluster.shell("n1", script)?;
    let lines: Vec<&str> = seen.lines().collect();
    let [count, descriptors, names, capabilities, uid, mounts] = lines[..] else { anyhow::bail!("{seen}") };
    ensure!((count, descriptors, names, capabilities, uid) == ("1", "3", "/dev/null", "0", "1001"), "{seen}");
    // Those of the container alone: no layer, no step, no other file system of the node.
    let node = fs::read_to_string(format!("/proc/{}/mountinfo", cluster.first_process("n1")?))?.lines().count();
    ensure!(mounts.parse::<usize>()? < node, "{mounts} mounts, and the node has {node}");
    let layers = cluster
        .shell("n1", "grep -cE 'squashfs|/run/parallax/steps' /proc/$(pgrep -x parallax-hold)/mountinfo || :")?;
    ensure!(layers == "1\n", "more than the root directory names the step: {layers}");
    step.finish()
}
