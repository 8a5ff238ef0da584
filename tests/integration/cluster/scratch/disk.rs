//! Writable layers on a disk of the node (`step.scratch`).

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, ensure};
use integration_tests::clean::{wait_for_empty, wait_for_no_lease};
use integration_tests::cluster::{Cluster, Done};
use integration_tests::held::HeldStep;
use integration_tests::memory_group::MemoryGroup;
use integration_tests::processes::{self, machine_pid};

use super::MEGABYTE;

tests! { cluster:
    what_is_on_the_disk_is_not_memory,
    podman_writes_to_the_disk,
    whatever_a_user_leaves_goes,
    it_outlives_the_agent_and_not_the_step,
    a_power_cut_leaves_nothing,
    directories_that_cannot_be_used_are_named,
    file_systems_are_recognised,
}

const CONFIG: &str = "/etc/parallax/parallax.toml";
/// The disk's image, as nodes see it.
const IMAGE: &str = "/shared/scratch.ext4";
const DISK: &str = "/local";
const SCRATCH: &str = "/local/scratch";
/// The directories of steps.
const STEPS: &str = "/local/scratch/parallax-steps";

fn config_of(scratch: &str) -> String {
    format!("stores = [\"/shared/store\"]\n[step]\nscratch = \"{scratch}\"\n")
}

/// Gives n1 a configuration, and an agent that was started with it.
fn configure(cluster: &Cluster, text: &[u8]) -> anyhow::Result<()> {
    fs::write(cluster.path_on("n1", CONFIG)?, text)?;
    cluster.service("n1", "stop", "agent")?;
    cluster.service("n1", "start", "agent")
}

fn mount_disk(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.shell("n1", &format!("mkdir -p {DISK} && mount -o loop {IMAGE} {DISK} && mkdir -p {SCRATCH}")).map(drop)
}

/// Runs `body` while n1 has an ext4 file system of its own at [`DISK`] and writable layers there.
fn with_disk(cluster: &Cluster, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let image = cluster.shared().join("scratch.ext4");
    File::create(&image)?.set_len(1024 * MEGABYTE)?;
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.args(["-q", "-F"]).arg(&image).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    Done::from(mkfs.output().context("cannot start mkfs.ext4")?).success()?;
    let before = fs::read(cluster.path_on("n1", CONFIG)?)?;
    let result = mount_disk(cluster)
        .and_then(|()| configure(cluster, config_of(SCRATCH).as_bytes()))
        .and_then(|()| body())
        .and_then(|()| wait_for_empty(&cluster.path_on("n1", STEPS)?));
    // Also of a node that has had no power meanwhile.
    let restored = configure(cluster, &before);
    let unmounted = cluster.shell("n1", &format!("umount {DISK} && rmdir {DISK}"));
    fs::remove_file(image)?;
    result.and(restored)?;
    unmounted.map(drop)
}

/// The paths of the files with this name on the disk.
fn files(cluster: &Cluster, name: &str) -> anyhow::Result<Vec<String>> {
    let found = cluster.shell("n1", &format!("find {STEPS} -name {name}"))?;
    Ok(found.lines().map(ToOwned::to_owned).collect())
}

fn what_is_on_the_disk_is_not_memory(cluster: &Cluster) -> anyhow::Result<()> {
    with_disk(cluster, || {
        let arguments = ["-w", "n1", "--mem=200", "--parallax-userns=root", "--parallax-image=debian"];
        let script = "echo $$; read -r _; head -c 300M /dev/zero >/var/tmp/large; stat -c %s /var/tmp/large; \
                      rm -f /etc/debian_version; test -e /etc/debian_version || echo removed";
        let mut step = HeldStep::start(cluster, "u1", &arguments, 1, script)?;
        let limit = MemoryGroup::new(cluster, 200 * MEGABYTE)?;
        limit.add(machine_pid(cluster, "n1", step.lines[0].parse()?)?)?;
        step.write_line("go")?;
        let said = (step.read_line()?, step.read_line()?);
        ensure!(said == ((300 * MEGABYTE).to_string(), "removed".to_owned()), "{said:?}");
        let found = files(cluster, "large")?;
        ensure!(found.len() == 1 && found[0].ends_with("/var/tmp/large"), "{found:?}");
        let owners = cluster.shell("n1", &format!("stat -c '%a %u:%g' {STEPS} {STEPS}/* {STEPS}/*/*"))?;
        ensure!(owners == "700 0:0\n700 0:0\n700 1001:1001\n", "{owners}");
        let other = cluster.run("n1", "u1", &["ls", STEPS])?;
        ensure!(other.code != 0 && other.stderr.contains("Permission denied"), "{other:?}");
        step.finish()
    })
}

fn podman_writes_to_the_disk(cluster: &Cluster) -> anyhow::Result<()> {
    with_disk(cluster, || {
        let script = "stat --file-system --format=%T $(podman info --format '{{.Store.GraphRoot}}'); \
                      podman run --name first debian sh -c 'echo of podman >/var/tmp/written; rm /etc/debian_version'; \
                      podman diff first | grep -e written -e debian_version; \
                      podman run --rm --userns=keep-id debian sh -c 'id -u; touch /var/tmp/new && echo wrote'";
        let arguments = ["-w", "n1", "--parallax-mode=podman", "--parallax-image=debian"];
        let mut step =
            HeldStep::start(cluster, "u1", &arguments, 1, &format!("echo started; read -r _; {script}; echo end"))?;
        step.write_line("go")?;
        let mut said = Vec::new();
        while said.last().is_none_or(|line| line != "end") {
            said.push(step.read_line()?);
        }
        let found = files(cluster, "written")?;
        step.finish()?;
        let expected = ["ext2/ext3", "A /var/tmp/written", "D /etc/debian_version", "1001", "wrote", "end"];
        said.sort();
        let mut sorted = expected.to_vec();
        sorted.sort_unstable();
        ensure!(said == sorted, "{said:?}");
        ensure!(found.len() == 1, "{found:?}");
        Ok(())
    })
}

/// Deeper than any path, without permissions, of other ids, with links to what is not the step's, and with names that the agent takes.
fn whatever_a_user_leaves_goes(cluster: &Cluster) -> anyhow::Result<()> {
    with_disk(cluster, || {
        cluster.shell("n1", &format!("mkdir {DISK}/canary; echo alive >{DISK}/canary/file"))?;
        let script = format!(
            r#"
import os
os.makedirs("/var/tmp/deep")
os.symlink("{DISK}/canary", "/var/tmp/link")
os.chdir("/var/tmp/deep")
open("file", "w").close()
os.link("file", "another")
for depth in range(3000):
    os.mkdir("directory")
    os.symlink("{DISK}/canary", "link")
    os.mkdir("sticky", 0o1777)
    open("sticky/file", "w").close()
    for name in ("1", "2", "3"):
        if depth < 5:
            os.mkdir(name)
    os.chdir("directory")
    os.chown(".", 7, 7)
    os.chmod("..", 0)
os.mknod("/var/tmp/fifo", 0o10600)
print("done", flush=True)
"#
        );
        let arguments = ["-w", "n1", "--parallax-userns=root", "--parallax-image=python"];
        let done = cluster.srun("u1", &[&arguments[..], &["python3", "-c", &script]].concat())?.success()?;
        ensure!(done.stdout == "done\n", "{done:?}");
        wait_for_no_lease(cluster, "n1")?;
        wait_for_empty(&cluster.path_on("n1", STEPS)?)?;
        let canary = cluster.shell("n1", &format!("cat {DISK}/canary/file; rm -r {DISK}/canary"))?;
        ensure!(canary == "alive\n", "{canary}");
        Ok(())
    })
}

fn held(cluster: &Cluster) -> anyhow::Result<HeldStep> {
    // The line comes last: who has read it finds the file.
    let script = "touch /var/tmp/before; echo $SLURM_JOB_ID; read -r _; cat /var/tmp/before && touch /var/tmp/after && echo kept";
    HeldStep::start(cluster, "u1", &["-w", "n1", "--parallax-image=debian"], 1, script)
}

fn it_outlives_the_agent_and_not_the_step(cluster: &Cluster) -> anyhow::Result<()> {
    with_disk(cluster, || {
        let mut step = held(cluster)?;
        processes::kill(cluster, "n1", "parallax-agent")?;
        cluster.service("n1", "start", "agent")?;
        step.write_line("go")?;
        ensure!(step.read_line()? == "kept");
        ensure!(files(cluster, "after")?.len() == 1);
        step.finish()?;
        wait_for_no_lease(cluster, "n1")?;
        wait_for_empty(&cluster.path_on("n1", STEPS)?)?;

        // With the slurmstepd, with the agent alive and without it.
        for with_agent in [true, false] {
            let step = held(cluster)?;
            if !with_agent {
                processes::kill(cluster, "n1", "parallax-agent")?;
            }
            ensure!(files(cluster, "before")?.len() == 1);
            processes::kill(cluster, "n1", "slurmstepd")?;
            if !with_agent {
                cluster.service("n1", "start", "agent")?;
            }
            wait_for_no_lease(cluster, "n1")?;
            wait_for_empty(&cluster.path_on("n1", STEPS)?)?;
            cluster.run("ctl", "root", &["scancel", &step.lines[0]])?.success()?;
            step.wait()?;
        }
        Ok(())
    })
}

fn a_power_cut_leaves_nothing(cluster: &Cluster) -> anyhow::Result<()> {
    with_disk(cluster, || {
        let step = held(cluster)?;
        ensure!(files(cluster, "before")?.len() == 1);
        cluster.power("n1", "off")?;
        cluster.power("n1", "on")?;
        step.wait()?;
        // As the node's start would do it before the agent's.
        mount_disk(cluster)?;
        ensure!(files(cluster, "before")?.len() == 1, "the disk has lost the file by itself");
        configure(cluster, config_of(SCRATCH).as_bytes())?;
        wait_for_empty(&cluster.path_on("n1", STEPS)?)
    })
}

fn directories_that_cannot_be_used_are_named(cluster: &Cluster) -> anyhow::Result<()> {
    let make = format!(
        "mkdir {DISK}; mkdir -m 0777 {DISK}/open; mkdir {DISK}/theirs; chown u1 {DISK}/theirs; ln -s {DISK} /linked
         mkdir /tmp/scratch; mkdir -p {DISK}/planted; mount -t tmpfs -o mode=1777 planted {DISK}/planted"
    );
    cluster.shell("n1", &make)?;
    cluster.run("n1", "u1", &["mkdir", "/local/planted/parallax-steps"])?.success()?;
    let before = fs::read(cluster.path_on("n1", CONFIG)?)?;
    let cases = [
        ("/nowhere/scratch", "cannot use /nowhere for writable layers: No such file"),
        ("/local/open", "others than root may change /local/open; chown root"),
        ("/local/theirs", "others than root may change /local/theirs"),
        ("/linked", "/linked for writable layers: it is a symbolic link"),
        ("/local", "it is on overlay, which cannot hold the upper layers of overlays; name a directory on a disk"),
        ("/local/planted", "/local/planted/parallax-steps does not belong to root alone"),
    ];
    let tested = cases.into_iter().try_for_each(|(scratch, message)| {
        configure(cluster, config_of(scratch).as_bytes())?;
        let done = cluster.srun("u1", &["-w", "n1", "-n2", "--parallax-image=debian", "true"])?;
        let told: Vec<&str> = done.stderr.lines().filter(|line| line.contains("parallax: ")).collect();
        ensure!(done.code != 0 && told.len() == 1 && told[0].contains(message), "{scratch}: {done:?}");
        // Steps without an image do not notice.
        cluster.srun("u1", &["-w", "n1", "true"])?.success()?;
        if scratch != "/local/planted" {
            let doctor = cluster.run("n1", "root", &["parallax", "doctor"])?;
            ensure!(doctor.code == 1 && doctor.stdout.contains("for writable layers"), "{doctor:?}");
        }
        Ok(())
    });
    configure(cluster, &before)?;
    cluster.shell("n1", &format!("umount {DISK}/planted; rm -r {DISK} /linked /tmp/scratch"))?;
    tested
}

/// By the type of the mount: ext4, tmpfs, overlay, and file systems in user space with a subtype that is known.
fn file_systems_are_recognised(cluster: &Cluster) -> anyhow::Result<()> {
    with_disk(cluster, || {
        let file = "/shared/scratch.squash";
        let serve = format!(
            "mkdir -p /tmp/store/parallax /tmp/served /srv/of-node /tmp/source; mksquashfs /tmp/source {file} -quiet -no-progress
             squashfuse -o allow_other,subtype=cvmfs2 {file} /tmp/served"
        );
        cluster.shell("n1", &serve)?;
        let config = format!(
            "stores = [\"/shared/store\", \"/tmp/store\"]\n[trees]\npaths = [\"/tmp/served\", \"/srv/of-node\"]\n[step]\n\
             scratch = \"{SCRATCH}\"\n"
        );
        let path = cluster.path_on("n1", CONFIG)?;
        let before = fs::read(&path)?;
        fs::write(&path, config)?;
        let doctor = cluster.run("n1", "root", &["parallax", "doctor", "--user", "u1"]);
        fs::write(&path, before)?;
        cluster.shell("n1", "fusermount3 -u /tmp/served; rm -r /tmp/served /tmp/store /tmp/source /srv/of-node")?;
        fs::remove_file(cluster.shared().join(PathBuf::from("scratch.squash")))?;
        let doctor = doctor?;
        for expected in [
            "/shared/store is on ",
            "/home/u1 is on ",
            "/tmp/store is on tmpfs, in memory",
            "/tmp/served is on CVMFS, on servers; it has no locks, no upper layers of overlays",
            "/srv/of-node is on overlay; it has no upper layers of overlays, no mapped ids",
            "writable layers are in /local/scratch, on ext4, without a limit",
        ] {
            ensure!(doctor.stdout.contains(expected), "no {expected:?}: {}", doctor.stdout);
        }
        let listed = cluster.run("n1", "u1", &["parallax", "list"])?.success()?;
        ensure!(listed.stdout.lines().last().is_some_and(|line| line.contains(" stored on ")), "{listed:?}");
        Ok(())
    })
}
