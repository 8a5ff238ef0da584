//! Programs that fail, hang or are killed, in the beginning and later.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use anyhow::ensure;
use integration_tests::cluster::{Cluster, Done, repository};

use super::{PLAIN, ROOTLESS, expect_lines};

tests! {
    guests:
        killed_at_any_point_it_leaves_nothing;
    cluster:
        programs_that_fail_are_told,
        killed_while_it_starts_others_it_leaves_nothing,
        programs_that_end_later;
}

fn programs_that_fail_are_told(cluster: &Cluster) -> anyhow::Result<()> {
    let wrapper = |name: &str, line: &str| -> anyhow::Result<String> {
        let path = cluster.shared().join(name);
        fs::write(&path, format!("#!/bin/sh\n{line}\n"))?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        Ok(format!("/shared/{name}"))
    };
    let fails = wrapper("fails", "echo it is broken >&2; exit 3")?;
    let vanishes = wrapper("vanishes", "exit 0")?;
    let hangs = wrapper("hangs", "sleep 1000 & wait")?;
    for (variable, program, how, words) in [
        ("PARALLAX_MP_SQUASHFUSE_CMD", "/none", "host", "/none is not installed (named by PARALLAX_MP_SQUASHFUSE_CMD)"),
        ("PARALLAX_MP_SQUASHFUSE_CMD", fails.as_str(), "host", "/shared/fails failed: it is broken"),
        ("PARALLAX_MP_SQUASHFUSE_CMD", vanishes.as_str(), "host", "was mounted and cannot be read"),
        ("PARALLAX_MP_SQUASHFUSE_CMD", hangs.as_str(), "host", "/shared/hangs did not start within 1 s and was killed"),
        (
            "PARALLAX_MP_FUSE_OVERLAYFS_CMD",
            hangs.as_str(),
            "keep-id",
            "/shared/hangs did not start within 1 s and was killed",
        ),
        (
            "PARALLAX_MP_FUSE_OVERLAYFS_CMD",
            "/none",
            "keep-id",
            "/none is not installed (named by PARALLAX_MP_FUSE_OVERLAYFS_CMD)",
        ),
        ("PARALLAX_MP_FUSE_OVERLAYFS_CMD", fails.as_str(), "keep-id", "/shared/fails failed: it is broken"),
        ("PARALLAX_MP_FUSE_OVERLAYFS_CMD", vanishes.as_str(), "keep-id", ""),
    ] {
        let done = PLAIN.script(
            cluster,
            &format!("export PARALLAX_MP_START_TIMEOUT=1 {variable}={program}; run --userns={how} debian true"),
        )?;
        ensure!((125..128).contains(&done.code) && done.stderr.contains(words), "not {words}: {done:?}");
    }
    for name in ["fails", "vanishes", "hangs"] {
        fs::remove_file(cluster.shared().join(name))?;
    }
    Ok(())
}

/// The moments at which its children are started, by those themselves.
fn killed_while_it_starts_others_it_leaves_nothing(cluster: &Cluster) -> anyhow::Result<()> {
    let path = cluster.shared().join("kills");
    for (variable, program) in
        [("PARALLAX_MP_SQUASHFUSE_CMD", "squashfuse_ll"), ("PARALLAX_MP_FUSE_OVERLAYFS_CMD", "fuse-overlayfs")]
    {
        for line in [format!("kill -9 $PPID; exec {program} \"$@\""), format!("{program} \"$@\" & kill -9 $PPID; wait")]
        {
            fs::write(&path, format!("#!/bin/sh\n{line}\n"))?;
            fs::set_permissions(&path, Permissions::from_mode(0o755))?;
            let text = format!("export {variable}=/shared/kills; run --userns=keep-id layers40 true");
            let done = PLAIN.script(cluster, &text)?;
            ensure!((125..128).contains(&done.code) && done.stderr.contains("killed"), "{line}: {done:?}");
        }
    }
    Ok(fs::remove_file(path)?)
}

/// `kill -9` right before each of its steps, by the fault points that builds for tests have.
fn killed_at_any_point_it_leaves_nothing(cluster: &Cluster) -> anyhow::Result<()> {
    let build = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--quiet", "--package", "parallax-mount-program"])
        .current_dir(repository())
        .output()?;
    Done::from(build).success()?;
    let program = cluster.shared().join("mount-program-with-faults");
    fs::copy(repository().join("target/debug/parallax-mount-program"), &program)?;
    let text = "
        PROGRAM=/shared/mount-program-with-faults
        podman() {
            command podman --root $XDG_RUNTIME_DIR/graph --runroot $XDG_RUNTIME_DIR/run \
                --storage-opt additionalimagestore=/shared/store --storage-opt mount_program=$PROGRAM \"$@\"
        }
        for how in host keep-id; do
            for point in $(seq 1 50); do
                if PARALLAX_TEST_KILL_AT=$point run --userns=$how debian true 2>$XDG_RUNTIME_DIR/said; then break; fi
                grep -q 'signal: killed' $XDG_RUNTIME_DIR/said || { cat $XDG_RUNTIME_DIR/said >&2; exit 1; }
                all_end
                if [ -n \"$(left)\" ]; then left >&2; echo \"left after point $point\" >&2; exit 1; fi
            done
            echo $point
        done";
    for podman in ROOTLESS {
        let done = podman.script(cluster, text)?.success()?;
        let points: Vec<u32> = done.stdout.lines().map(str::parse).collect::<Result<_, _>>()?;
        ensure!(points.len() == 2 && points.iter().all(|points| (8..50).contains(points)), "{podman:?}: {done:?}");
    }
    Ok(fs::remove_file(program)?)
}

/// What serves a running container ends: the container fails, does not hang and can be removed, and the next one starts anew.
fn programs_that_end_later(cluster: &Cluster) -> anyhow::Result<()> {
    for (how, program) in [("host", "squashfuse"), ("keep-id", "squashfuse"), ("keep-id", "fuse-overlayfs")] {
        let text = format!(
            "podman run --detach --name held --network=host --userns={how} debian sleep 1000 >/dev/null
             pkill -KILL -u $USER {program}
             if timeout 20 podman exec held cat /etc/debian_version >/dev/null 2>&1; then echo still there; else echo $(($? != 124)); fi
             run --userns={how} debian cat /etc/hostname >/dev/null; echo next
             podman rm --force --time 0 held >/dev/null; echo removed"
        );
        expect_lines(&PLAIN.script(cluster, &text)?.success()?, &["1", "next", "removed"])?;
    }
    Ok(())
}
