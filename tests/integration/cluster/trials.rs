//! Trials of the node that were cut short or failed, and that are made again when a step needs it; limits that are named.

use std::fs;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::Cluster;
use serde_json::Value;

use super::daemon::{SLOW_STORE, SlowStore};
use super::with_file;

tests! { cluster:
    a_trial_that_hung_is_made_again_when_a_step_needs_it,
    what_was_missing_at_the_start_is_found_later,
    another_mount_program_is_tried_after_a_reload,
    a_limit_of_namespaces_is_named,
}

const CONFIG: &str = "/etc/parallax/parallax.toml";
const STEP: [&str; 4] = ["-w", "n1", "--parallax-image=debian", "true"];

fn restart(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.service("n1", "stop", "agent")?;
    cluster.service("n1", "start", "agent")
}

/// What the agent of n1 says of its node: why not by the kernel, why not by FUSE, and what is undecided.
fn ways(cluster: &Cluster) -> anyhow::Result<[Option<String>; 3]> {
    let node = cluster.agent_status("n1")?.node;
    Ok([node.native, node.fuse, node.undecided])
}

/// The doctor's exit code, and its findings of the agent.
fn doctor(cluster: &Cluster) -> anyhow::Result<(i32, Vec<String>)> {
    let done = cluster.run("n1", "root", &["parallax", "doctor", "--json"])?;
    let checks: Vec<Value> = serde_json::from_str(&done.stdout).with_context(|| format!("{done:?}"))?;
    let of_agent = checks.iter().filter(|check| check["topic"] == "agent" && check["state"] != "ok");
    Ok((done.code, of_agent.map(|check| check["finding"].as_str().unwrap_or_default().to_owned()).collect()))
}

fn a_trial_that_hung_is_made_again_when_a_step_needs_it(cluster: &Cluster) -> anyhow::Result<()> {
    let store = SlowStore::mount(cluster)?;
    // Whoever opens the device waits for a file system that stands still.
    cluster.shell(
        "n1",
        &format!("mount --bind {SLOW_STORE}/parallax/names/localhost%2Fdebian:latest /dev/loop-control"),
    )?;
    let hung = store.signal("STOP").and_then(|()| restart(cluster)).and_then(|()| ways(cluster));
    store.signal("CONT")?;
    cluster.shell("n1", "umount /dev/loop-control")?;
    let hung = hung?;
    let tested = (|| {
        for reason in &hung {
            let reason = reason.as_deref().unwrap_or_default();
            ensure!(reason.contains("did not end within 15 s"), "{hung:?}");
        }
        // The node is well now, and its agent does not know.
        let (code, findings) = doctor(cluster)?;
        ensure!(
            code == 1 && findings.iter().any(|finding| finding.contains("kernel SquashFS, which works now")),
            "{findings:?}"
        );
        cluster.srun("u1", &STEP)?.success()?;
        let ways = ways(cluster)?;
        ensure!(ways == [None, None, None], "{ways:?}");
        let (code, findings) = doctor(cluster)?;
        ensure!(code == 0 && findings.is_empty(), "{findings:?}");
        Ok(())
    })();
    restart(cluster)?;
    drop(store);
    tested
}

fn what_was_missing_at_the_start_is_found_later(cluster: &Cluster) -> anyhow::Result<()> {
    let devices = "/dev/loop-control /dev/fuse";
    cluster.shell("n1", &format!("for device in {devices}; do mount --bind /dev/null $device; done"))?;
    let refused = restart(cluster).and_then(|()| cluster.srun("u1", &STEP));
    cluster.shell("n1", &format!("umount {devices}"))?;
    let tested = refused.and_then(|done| {
        ensure!(done.code == 125 && done.stderr.contains("no kernel SquashFS: no loop device"), "{done:?}");
        cluster.srun("u1", &STEP)?.success().map(drop)
    });
    restart(cluster)?;
    tested
}

fn another_mount_program_is_tried_after_a_reload(cluster: &Cluster) -> anyhow::Result<()> {
    let link = cluster.path_on("n1", "/usr/libexec/parallax/other-mount-program")?;
    std::os::unix::fs::symlink("parallax-mount-program", &link)?;
    let text = |program: &str| {
        let program = format!("mount_program = \"/usr/libexec/parallax/{program}\"");
        format!("stores = [\"/shared/store\"]\n[agent]\nmounts = \"fuse\"\n{program}\n")
    };
    let missing = text("no-such-program");
    let tested = with_file(cluster, "n1", CONFIG, Some(&missing), || {
        restart(cluster)?;
        let done = cluster.srun("u1", &STEP)?;
        ensure!(done.code == 125 && done.stderr.contains("no-such-program cannot be started"), "{done:?}");
        fs::write(cluster.path_on("n1", CONFIG)?, text("other-mount-program"))?;
        cluster.shell("n1", "kill -HUP $(pidof parallax-agent)")?;
        cluster.srun("u1", &STEP)?.success().map(drop)
    });
    fs::remove_file(link)?;
    restart(cluster)?;
    tested
}

fn a_limit_of_namespaces_is_named(cluster: &Cluster) -> anyhow::Result<()> {
    // The limits of a user namespace are its own: nothing else on the machine meets them.
    let limited = |sysctl: &str| -> anyhow::Result<String> {
        let script = format!(
            r#"
import os
(ready, made), (go, mapped) = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    os.unshare(os.CLONE_NEWUSER)
    os.write(made, b"x")
    os.read(go, 1)
    with open("/proc/sys/user/{sysctl}", "w") as limit:
        limit.write("0")
    os.setgroups([])
    os.setresgid(1001, 1001, 1001)
    os.setresuid(1001, 1001, 1001)
    os.execv("/usr/bin/parallax", ["parallax", "doctor"])
os.read(ready, 1)
for kind in ["uid", "gid"]:
    with open(f"/proc/{{child}}/{{kind}}_map", "w") as map:
        map.write("0 0 65536")
os.write(mapped, b"x")
os.waitpid(child, 0)
"#
        );
        Ok(cluster.run("n1", "root", &["python3", "-c", &script])?.success()?.stdout)
    };
    let said = limited("max_user_namespaces")?;
    ensure!(said.contains("no user namespaces for users: No space left on device"), "{said}");
    ensure!(said.contains("the limit user.max_user_namespaces (0)"), "{said}");
    let said = limited("max_mnt_namespaces")?;
    ensure!(said.contains("the limit user.max_mnt_namespaces (0)"), "{said}");
    Ok(())
}
