//! Faults of Podman. (One that hangs is a fault of the start.)

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use integration_tests::cluster::Cluster;

use super::{failed_saying_once, faults, with_config};

faults! { Cluster:
    missing = "podman missing",
    failing = "podman fails",
    the_runtime_is_missing = "the OCI runtime missing",
    may_make_no_user_namespace = "user namespaces forbidden to podman",
}

/// Runs a step of four tasks with another Podman and OCI runtime.
fn run_with(cluster: &Cluster, keys: &str, parts: &[&str]) -> anyhow::Result<String> {
    with_config(cluster, &format!("stores = [\"/shared/store\"]\n[run]\n{keys}\n"), || {
        let done = cluster.srun("u1", &["-w", "n1", "-n4", "--parallax-image=debian", "true"])?;
        failed_saying_once(&done, parts)
    })
}

fn missing(cluster: &Cluster) -> anyhow::Result<String> {
    run_with(cluster, "podman = \"/nonexistent/podman\"", &["/nonexistent/podman", "cannot execute"])
}

fn failing(cluster: &Cluster) -> anyhow::Result<String> {
    run_with(cluster, "podman = \"/bin/false\"", &["/bin/false failed"])
}

fn the_runtime_is_missing(cluster: &Cluster) -> anyhow::Result<String> {
    run_with(cluster, "runtime = \"/nonexistent/crun\"", &["cannot start the container", "/nonexistent/crun"])
}

fn may_make_no_user_namespace(cluster: &Cluster) -> anyhow::Result<String> {
    // The limit holds for the user namespace in which it is set, and Podman runs in the step's own.
    let path = "/usr/local/bin/podman-without-namespaces";
    let program = cluster.path_on("n1", path)?;
    let script = "#!/bin/sh\necho 0 > /proc/sys/user/max_user_namespaces || exit 1\nexec podman \"$@\"\n";
    fs::write(&program, script)?;
    fs::set_permissions(&program, Permissions::from_mode(0o755))?;
    let seen =
        run_with(cluster, &format!("podman = \"{path}\""), &["cannot start the container", "No space left on device"]);
    fs::remove_file(&program)?;
    seen
}
