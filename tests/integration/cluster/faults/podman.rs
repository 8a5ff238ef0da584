//! Faults of the programs and the limits that a container depends on: Podman, for an image that is pulled; the mount program; the
//! kernel's limits. (Programs that hang are faults of the start.)

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::ensure;
use integration_tests::cluster::Cluster;

use super::{CONFIG, failed_saying_once, faults, with_config};
use crate::cluster::with_file;

faults! { Cluster:
    missing = "podman missing, and an image to pull",
    failing = "podman fails, and an image to pull",
    hanging = "podman hangs, and an image to pull",
    the_mount_program_fails = "the mount program fails in the step",
    may_make_no_mount_namespace = "the user's mount namespaces used up",
}

/// Runs a step of four tasks with an image.
fn run(cluster: &Cluster, image: &str, parts: &[&str], notices: usize) -> anyhow::Result<String> {
    let image = format!("--parallax-image={image}");
    let mut done = cluster.srun("u1", &["-w", "n1", "-n4", &image, "true"])?;
    // What is not an error is told before.
    let notice = "so Podman pulls it";
    ensure!(done.stderr.matches(notice).count() == notices, "{done:?}");
    done.stderr = done.stderr.lines().filter(|line| !line.contains(notice)).collect::<Vec<_>>().join("\n");
    failed_saying_once(&done, parts)
}

/// Runs a step whose image this Podman is to pull.
fn pull_with(cluster: &Cluster, podman: &str, parts: &[&str]) -> anyhow::Result<String> {
    let config = format!(
        "stores = [\"/shared/store\"]\n[step]\non_missing = \"pull\"\nstart_timeout = 5\n[run]\npodman = \"{podman}\"\n"
    );
    let mut seen = String::new();
    with_file(cluster, "ctl", CONFIG, Some(&config), || {
        seen = with_config(cluster, &config, || run(cluster, "localhost:1/nothing:1", parts, 1))?;
        Ok(())
    })?;
    Ok(seen)
}

/// Puts a program on n1 for as long as `body` runs.
fn with_program(
    cluster: &Cluster,
    path: &str,
    script: &str,
    body: impl FnOnce() -> anyhow::Result<String>,
) -> anyhow::Result<String> {
    let program = cluster.path_on("n1", path)?;
    executable(&program, script)?;
    let seen = body();
    fs::remove_file(program)?;
    seen
}

fn executable(path: &Path, script: &str) -> anyhow::Result<()> {
    fs::write(path, script)?;
    Ok(fs::set_permissions(path, Permissions::from_mode(0o755))?)
}

fn missing(cluster: &Cluster) -> anyhow::Result<String> {
    pull_with(cluster, "/nonexistent/podman", &["/nonexistent/podman", "cannot execute"])
}

fn failing(cluster: &Cluster) -> anyhow::Result<String> {
    pull_with(cluster, "/bin/false", &["cannot pull the image", "/bin/false failed"])
}

fn hanging(cluster: &Cluster) -> anyhow::Result<String> {
    let path = "/usr/local/bin/hanging-podman";
    with_program(cluster, path, "#!/bin/sh\nexec tail -f /dev/null\n", || {
        pull_with(cluster, path, &["cannot pull the image", "took too long"])
    })
}

fn the_mount_program_fails(cluster: &Cluster) -> anyhow::Result<String> {
    let path = "/usr/local/bin/failing-mount-program";
    // The agent's trials succeed.
    let script = "#!/bin/sh\ncase \"$*\" in */steps/*) echo no luck today >&2; exit 5;; esac\n\
                  exec /usr/libexec/parallax/parallax-mount-program \"$@\"\n";
    let config = format!("stores = [\"/shared/store\"]\n[agent]\nmounts = \"fuse\"\nmount_program = \"{path}\"\n");
    with_program(cluster, path, script, || {
        with_config(cluster, &config, || run(cluster, "debian", &["cannot mount the image", path, "no luck today"], 0))
    })
}

/// What the kernel says where a user has too many, which holds for the whole machine.
fn may_make_no_mount_namespace(cluster: &Cluster) -> anyhow::Result<String> {
    let launcher = cluster.path_on("n1", "/usr/libexec/parallax/parallax-launch")?;
    let real = launcher.with_extension("real");
    fs::rename(&launcher, &real)?;
    let script = "#!/bin/sh\nexec strace -f -o /dev/null -e inject=unshare:error=ENOSPC $0.real \"$@\"\n";
    let seen = executable(&launcher, script)
        .and_then(|()| run(cluster, "debian", &["make a mount namespace", "user.max_mnt_namespaces ("], 0));
    fs::rename(&real, &launcher)?;
    seen
}
