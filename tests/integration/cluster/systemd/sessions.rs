//! Users with a systemd user manager on the node, as after a login: nothing of a step may get into their session.

use anyhow::ensure;
use integration_tests::cluster::Cluster;

use super::{NODE, booted_by_systemd};

tests! { cluster:
    processes_stay_in_the_jobs_control_group,
    a_task_keeps_its_session_keyring,
}

/// Starts what the node has masked (tests/cluster/lib/systemd-root.sh), and u1's user manager with its bus.
const LOG_IN: &str = "
    rm /etc/systemd/system/dbus.service /etc/systemd/system/dbus.socket /etc/systemd/system/systemd-logind.service
    systemctl daemon-reload
    systemctl start dbus.socket dbus.service systemd-logind.service
    loginctl enable-linger u1
    systemctl start user@1001.service
    test -S /run/user/1001/bus";
/// The reverse.
const LOG_OUT: &str = "
    loginctl disable-linger u1
    systemctl stop user@1001.service user-runtime-dir@1001.service systemd-logind.service dbus.socket dbus.service";

/// How many processes a user manager has, with its bus not yet used: systemd and its helper for PAM.
const USER_MANAGER: usize = 2;

/// What a login on the node would set, and srun carry along.
const BUS: &str = "DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1001/bus";
/// The user's own configuration, as on a workstation.
const CONFIGURATION: &str = "mkdir -p .config/containers
    printf '[engine]\\ncgroup_manager = \"systemd\"\\n[containers]\\ncgroups = \"enabled\"\\n' >.config/containers/containers.conf";

/// All that users do with Podman, and then the name and the control group of each process of the node.
const WORK: &str = "
    set -e
    podman run --rm debian true
    podman run --detach --name one debian sleep 1000 >/dev/null
    podman run --detach --userns=keep-id debian sleep 1000 >/dev/null
    podman run --detach --health-cmd true --health-interval 1s debian sleep 1000 >/dev/null
    podman exec --detach one sleep 1000 >/dev/null
    printf 'FROM debian\\nRUN cat /proc/self/cgroup >/group\\n' | podman build --quiet --cgroupns=host --tag built - >/dev/null
    echo \"build $(podman run --rm built sed -n 's/^0:://p' /group)\"
    podman pod create one-pod >/dev/null
    podman run --detach --pod one-pod debian sleep 1000 >/dev/null
    podman system service --time=0 unix://$XDG_RUNTIME_DIR/service.sock >/dev/null 2>&1 & 
    for process in /proc/[0-9]*; do
        echo \"$(cat $process/comm 2>/dev/null) $(sed -n 's/^0:://p' $process/cgroup 2>/dev/null)\"
    done";

fn processes_stay_in_the_jobs_control_group(cluster: &Cluster) -> anyhow::Result<()> {
    booted_by_systemd(cluster, || {
        cluster.shell(NODE, LOG_IN)?;
        cluster.run(NODE, "u1", &["sh", "-euc", CONFIGURATION])?.success()?;
        let tested = podman_stays(cluster).and_then(|()| who_wants_to_leaves_and_is_cleaned_up(cluster));
        cluster.run(NODE, "u1", &["rm", "-r", ".config"])?.success()?;
        cluster.shell(NODE, LOG_OUT)?;
        tested
    })
}

fn step(cluster: &Cluster, mode: &str, script: &str) -> anyhow::Result<integration_tests::cluster::Done> {
    let mode = format!("--parallax-mode={mode}");
    let line = ["env", BUS, "srun", "--quiet", "-w", NODE, "--parallax-image=debian", &mode, "bash", "-c", script];
    cluster.run("ctl", "u1", &line)?.success()
}

fn podman_stays(cluster: &Cluster) -> anyhow::Result<()> {
    let done = step(cluster, "podman", WORK)?;
    ensure!(done.stderr.is_empty(), "Podman warns: {}", done.stderr);
    let lines: Vec<(&str, &str)> = done.stdout.lines().filter_map(|line| line.split_once(' ')).collect();
    let own = lines.iter().find(|(name, _)| *name == "slurmstepd").map_or("", |(_, group)| *group);
    ensure!(!own.is_empty() && !own.contains("user.slice"), "{done:?}");
    for (name, least) in [("sleep", 5), ("conmon", 6), ("parallax-launch", 1), ("podman", 1), ("build", 1)] {
        let groups: Vec<&str> = lines.iter().filter(|(known, _)| *known == name).map(|(_, group)| *group).collect();
        let inside = |group: &&str| *group == own || group.starts_with(&format!("{own}/"));
        ensure!(groups.len() >= least && groups.iter().all(inside), "{name}: {groups:?}, and the step is in {own}");
    }
    // Run mode's own call of Podman.
    let groups = "sed -n 's/^0:://p' /proc/self/cgroup; cat /proc/*/cgroup 2>/dev/null | grep -c user.slice/ || :";
    let done = step(cluster, "run", groups)?;
    ensure!(done.stderr.is_empty() && done.stdout == format!("{own}\n{USER_MANAGER}\n"), "not {own}: {done:?}");
    Ok(())
}

/// Shows that the bus is one over which Podman would leave. What leaves on purpose ends with the step all the same.
fn who_wants_to_leaves_and_is_cleaned_up(cluster: &Cluster) -> anyhow::Result<()> {
    let script = format!(
        "export {BUS}; podman --cgroup-manager=systemd run --detach debian sleep 1000 >/dev/null; cat /proc/*/cgroup"
    );
    let done = step(cluster, "podman", &script)?;
    ensure!(done.stdout.contains("/user.slice/libpod-"), "Podman cannot leave by this bus: {done:?}");
    Ok(())
}

/// A unit of systemd has a session keyring of its own, which its processes inherit: slurmd, and so the tasks.
fn a_task_keeps_its_session_keyring(cluster: &Cluster) -> anyhow::Result<()> {
    // KEYCTL_GET_KEYRING_ID of KEY_SPEC_SESSION_KEYRING (keyctl(2)), by its number on x86-64 and elsewhere.
    let number = if cfg!(target_arch = "x86_64") { 250 } else { 219 };
    let script = format!("print syscall({number}, 0, -3, 0)");
    booted_by_systemd(cluster, || {
        let keyring = |options: &[&str]| -> anyhow::Result<String> {
            let line = [&["--quiet", "-w", NODE], options, &["perl", "-e", &script]].concat();
            Ok(cluster.srun("u1", &line)?.success()?.stdout)
        };
        let (on_node, in_image) = (keyring(&[])?, keyring(&["--parallax-image=debian"])?);
        ensure!(on_node.parse::<u32>().is_ok() && on_node == in_image, "{on_node:?} and {in_image:?}");
        Ok(())
    })
}
