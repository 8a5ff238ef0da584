//! Backends of a node: layers by the kernel, and by FUSE where the kernel can't or may not.

use std::fs;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, ensure};
use integration_tests::clean::wait_for_steps;
use integration_tests::cluster::{Cluster, Done};
use integration_tests::held::HeldStep;
use serde_json::Value;

use crate::cluster::foreign::ForeignStore;
use crate::cluster::with_file;

tests! { cluster:
    a_node_tells_what_it_can_do,
    a_step_tells_its_source_and_why,
    by_fuse_if_told,
    by_fuse_where_the_kernel_cannot,
    a_node_that_can_neither_says_so,
    a_trial_that_hangs_is_ended,
    a_users_store_never_reaches_the_kernel,
    what_hides_in_a_container_by_fuse_is_ended,
    another_tools_images_by_fuse,
    a_layer_that_was_changed_is_refused,
    idle_layers_stay_if_told,
    files_are_read_as_the_site_wants,
}

pub(super) const CONFIG: &str = "/etc/parallax/parallax.toml";
pub(super) const STORE: &str = "stores = [\"/shared/store\"]\n";

/// Runs `body` while a compute node's agent has another configuration.
pub(super) fn with_config(
    cluster: &Cluster,
    node: &str,
    text: &str,
    body: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let restart = || cluster.service(node, "stop", "agent").and_then(|()| cluster.service(node, "start", "agent"));
    let result = with_file(cluster, node, CONFIG, Some(text), || restart().and_then(|()| body()));
    restart()?;
    result
}

/// Runs `body` while devices of n1 are not there: what is in their place is no such device.
fn without_devices(
    cluster: &Cluster,
    devices: &[&str],
    body: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let all = devices.join(" ");
    cluster.shell("n1", &format!("for device in {all}; do mount --bind /dev/null $device; done"))?;
    let result = with_config(cluster, "n1", STORE, body);
    cluster.shell("n1", &format!("umount {all}"))?;
    cluster.service("n1", "stop", "agent")?;
    cluster.service("n1", "start", "agent")?;
    result
}

fn status(cluster: &Cluster) -> anyhow::Result<Value> {
    let done = cluster.run("n1", "root", &["parallax", "status", "--json"])?.success()?;
    Ok(serde_json::from_str(&done.stdout)?)
}

/// What a step that runs on n1 has of layers: how many SquashFS mounts of the kernel, and how many servers of FUSE are at work.
fn layers_in_use(cluster: &Cluster) -> anyhow::Result<(usize, usize)> {
    let text = "grep -c ' - squashfs ' /proc/1/mountinfo || :; pgrep -c squashfuse || :";
    let counts = cluster.shell("n1", text)?;
    let mut counts = counts.lines().map(str::parse);
    Ok((counts.next().context("no count")??, counts.next().context("no count")??))
}

/// That an image starts in every way by FUSE, and that the kernel mounts nothing of it.
fn starts_by_fuse(cluster: &Cluster, user: &str, image: &str) -> anyhow::Result<()> {
    let option = format!("--parallax-image={image}");
    let arguments = ["-w", "n1", "-n2", option.as_str()];
    let step = HeldStep::start(cluster, user, &arguments, 2, "stat -c %u:%g /etc/shadow")?;
    ensure!(step.lines == ["0:42", "0:42"], "{:?}", step.lines);
    let (mounts, servers) = layers_in_use(cluster)?;
    ensure!(mounts == 0 && servers > 0, "{mounts} SquashFS mounts, {servers} servers");
    ensure!(cluster.agent_status("n1")?.layers.is_empty(), "the agent has mounted layers");
    step.finish()?;

    let script = format!(
        "podman run --rm --pull=never {image} stat -c %u:%g /etc/shadow && \
         podman run --rm --userns=keep-id {image} sh -c 'id -u; stat -c %u:%g /etc/shadow' && \
         podman run --detach {image} sleep 1000 >/dev/null && grep -c ' - squashfs ' /proc/self/mountinfo"
    );
    let podman = ["-w", "n1", option.as_str(), "--parallax-mode=podman", "sh", "-c", &script];
    let done = cluster.srun(user, &podman)?;
    let own = cluster.run("n1", user, &["id", "-u"])?.stdout;
    ensure!(done.stdout.lines().eq(["0:42", own.trim(), "0:42", "0"]), "{done:?}");
    Ok(())
}

fn a_node_tells_what_it_can_do(cluster: &Cluster) -> anyhow::Result<()> {
    let node = &status(cluster)?["node"];
    ensure!(node["native"].is_null() && node["fuse"].is_null(), "{node}");
    let names: Vec<&str> =
        node["abilities"].as_array().into_iter().flatten().filter_map(|ability| ability["name"].as_str()).collect();
    for name in
        ["user-namespaces", "squashfs", "squashfs-zstd", "id-maps", "erofs", "tmpfs-attributes", "overlay", "fuse"]
    {
        ensure!(names.contains(&name), "no {name} in {names:?}");
    }
    let shown = cluster.run("n1", "root", &["parallax", "status"])?.success()?;
    ensure!(shown.stdout.contains("layers: native, fuse"), "{shown:?}");
    Ok(())
}

/// That the agent tells the source of a step's layers, in its status, in the command's and in its log.
fn source_is_told(cluster: &Cluster, backend: &str, reason: &str) -> anyhow::Result<()> {
    let step = HeldStep::start(cluster, "u1", &["-w", "n1", "--parallax-image=debian"], 1, "echo started")?;
    let line = format!("squashfs by {backend}: {reason}");
    let tell = || -> anyhow::Result<()> {
        let source = status(cluster)?["steps"][0]["source"].clone();
        ensure!(source["kind"] == "squashfs" && source["backend"] == backend, "{source}");
        let shown = cluster.run("n1", "root", &["parallax", "status"])?.success()?.stdout;
        let row = shown.lines().nth(1).unwrap_or_default().to_owned();
        ensure!(row.contains(backend) && shown.contains(&line), "{shown}");
        Ok(())
    };
    tell()?;
    let log = cluster.shell("n1", "grep granted /var/log/cluster/n1-agent.log | tail -1")?;
    ensure!(log.contains(&line), "{log}");
    // A later agent knows it from the journal.
    cluster.service("n1", "stop", "agent")?;
    cluster.service("n1", "start", "agent")?;
    tell()?;
    step.finish()
}

fn a_step_tells_its_source_and_why(cluster: &Cluster) -> anyhow::Result<()> {
    source_is_told(cluster, "native", "the node can, and the owner of the store /shared/store is trusted")?;
    with_config(cluster, "n1", &format!("{STORE}[agent]\nmounts = \"fuse\"\n"), || {
        source_is_told(cluster, "fuse", "the configuration has mounts = ")
    })
}

fn by_fuse_if_told(cluster: &Cluster) -> anyhow::Result<()> {
    with_config(cluster, "n1", &format!("{STORE}[agent]\nmounts = \"fuse\"\n"), || {
        starts_by_fuse(cluster, "u1", "debian")?;
        // One with many layers, by two users at once.
        let first =
            HeldStep::start(cluster, "u1", &["-w", "n1", "--parallax-image=layers40"], 1, "ls /usr/bin | wc -l")?;
        let second =
            HeldStep::start(cluster, "u2", &["-w", "n1", "--parallax-image=layers40"], 1, "ls /usr/bin | wc -l")?;
        ensure!(first.lines == second.lines && first.lines[0] != "0", "{first:?} {second:?}");
        // And by one user twice: what ends with the one step must not be what the other one's files come from.
        let script = "echo started; read go; find /usr/share -type f -exec cat {} + | wc -c";
        let mut third = HeldStep::start(cluster, "u1", &["-w", "n1", "--parallax-image=layers40"], 1, script)?;
        let ended = cluster.agent_status("n1")?.steps.first().context("no step")?.step;
        first.finish()?;
        // It returns when nothing of the step is left, whoever began with that.
        cluster.run("n1", "root", &["parallax", "status", "--release", &ended.to_string()])?;
        third.write_line("go")?;
        let read = third.read_line().context("the files of a step went with another one")?;
        ensure!(read.parse::<u64>().is_ok_and(|bytes| bytes > 100_000), "only {read} bytes could be read");
        third.finish()?;
        second.finish()
    })
}

fn by_fuse_where_the_kernel_cannot(cluster: &Cluster) -> anyhow::Result<()> {
    without_devices(cluster, &["/dev/loop-control"], || {
        let node = &status(cluster)?["node"];
        let native = node["native"].as_str().unwrap_or_default();
        ensure!(native.starts_with("no kernel SquashFS: no loop device") && node["fuse"].is_null(), "{node}");
        starts_by_fuse(cluster, "u1", "debian")
    })
}

fn a_node_that_can_neither_says_so(cluster: &Cluster) -> anyhow::Result<()> {
    let refused = |parts: &[&str]| -> anyhow::Result<()> {
        let done = cluster.srun("u1", &["-w", "n1", "-n2", "--parallax-image=debian", "true"])?;
        ensure!(done.code == 125 && done.stderr.matches("parallax: ").count() == 1, "{done:?}");
        for part in parts {
            ensure!(done.stderr.contains(part), "no {part:?}: {done:?}");
        }
        Ok(())
    };
    let native = format!("{STORE}[agent]\nmounts = \"native\"\n");
    without_devices(cluster, &["/dev/loop-control", "/dev/fuse"], || {
        refused(&["\"debian\"", "no kernel SquashFS", "no SquashFS by FUSE", "/dev/fuse", "tell the administrator"])?;
        // A step without an image is not concerned.
        cluster.srun("u1", &["-w", "n1", "true"])?.success()?;
        with_config(cluster, "n1", &native, || refused(&["no kernel SquashFS", "mounts = \"native\""]))
    })
}

/// Nothing a node has can keep its agent from starting, and nothing is left of a trial that hung.
fn a_trial_that_hangs_is_ended(cluster: &Cluster) -> anyhow::Result<()> {
    let program = cluster.path_on("n1", "/usr/libexec/parallax/hangs")?;
    fs::write(&program, "#!/bin/sh\nsleep 12345 &\nexec sleep 12345\n")?;
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let text = format!("{STORE}[agent]\nmount_program = \"/usr/libexec/parallax/hangs\"\n");
    let tested = with_config(cluster, "n1", &text, || {
        let node = &status(cluster)?["node"];
        let fuse = node["fuse"].as_str().unwrap_or_default();
        ensure!(node["native"].is_null() && fuse.contains("did not end within 15 s"), "{node}");
        let left = cluster.shell("n1", "pgrep -ax 'sleep|exe' || echo nothing")?;
        ensure!(left == "nothing\n", "left: {left}");
        cluster.srun("u1", &["-w", "n1", "--parallax-image=debian", "true"])?.success().map(drop)
    });
    fs::remove_file(program)?;
    tested
}

/// A store that is u1's own, with an image that u1 migrated.
fn a_users_store_never_reaches_the_kernel(cluster: &Cluster) -> anyhow::Result<()> {
    let store = cluster.shared().join("users-store");
    let made = "install -d -m 0755 -o u1 -g u1 /shared/users-store";
    cluster.shell("ctl", made)?;
    let migrate = ["parallax", "--store", "/shared/users-store", "migrate", "oci:/images/debian", "--name", "own"];
    cluster.run("ctl", "u1", &migrate)?.success()?;
    // The only one: the shared store has the same image, under another name.
    let theirs = "stores = [\"/shared/users-store\"]\n";
    let tested = with_file(cluster, "ctl", CONFIG, Some(theirs), || {
        with_config(cluster, "n1", theirs, || {
            starts_by_fuse(cluster, "u1", "own")?;
            // For others too, if they may read it.
            starts_by_fuse(cluster, "u2", "own")?;
            cluster.shell("ctl", "chmod 0700 /shared/users-store/parallax/layers")?;
            let denied = cluster.srun("u2", &["-w", "n1", "--parallax-image=own", "true"])?;
            ensure!(denied.code == 125 && denied.stderr.contains("Permission denied"), "{denied:?}");
            starts_by_fuse(cluster, "u1", "own")
        })?;
        with_config(cluster, "n1", &format!("{theirs}[agent]\nmounts = \"native\"\n"), || {
            let done = cluster.srun("u1", &["-w", "n1", "--parallax-image=own", "true"])?;
            let reason = "belongs to the user 1001, who is not one of the configuration's trusted_owners";
            ensure!(done.code == 125 && done.stderr.contains(reason), "{done:?}");
            Ok(())
        })?;
        with_config(cluster, "n1", &format!("{theirs}[agent]\ntrusted_owners = [\"root\", \"u1\"]\n"), || {
            // Whom the kernel trusts does not matter for who may read it.
            let denied = cluster.srun("u2", &["-w", "n1", "--parallax-image=own", "true"])?;
            let reason = "permission denied on the store /shared/users-store";
            ensure!(denied.code == 125 && denied.stderr.contains(reason), "{denied:?}");
            cluster.shell("ctl", "chmod 0755 /shared/users-store/parallax/layers")?;
            let step = HeldStep::start(cluster, "u2", &["-w", "n1", "--parallax-image=own"], 1, "echo started")?;
            let (mounts, servers) = layers_in_use(cluster)?;
            ensure!(mounts > 0 && servers == 0, "{mounts} SquashFS mounts, {servers} servers");
            step.finish()
        })
    });
    fs::remove_dir_all(store)?;
    tested
}

/// A process that has shaken off its parent, its environment and its command line. It has nothing of the step's input and output either, for which
/// Slurm would wait for a minute before it lets the step end.
fn what_hides_in_a_container_by_fuse_is_ended(cluster: &Cluster) -> anyhow::Result<()> {
    with_config(cluster, "n1", &format!("{STORE}[agent]\nmounts = \"fuse\"\n"), || {
        let script = "setsid env -i sh -c 'sleep 1000 <>/dev/null >&0 2>&0 & echo hidden'";
        let step = HeldStep::start(cluster, "u1", &["-w", "n1", "--parallax-image=debian"], 1, script)?;
        ensure!(step.lines == ["hidden"], "{:?}", step.lines);
        step.finish()
    })
}

/// Images of other tools, in a store of theirs that is a user's.
fn another_tools_images_by_fuse(cluster: &Cluster) -> anyhow::Result<()> {
    let store = ForeignStore::new(cluster, "foreign-of-user")?;
    let theirs = format!("stores = [\"{}\"]\n", store.path);
    cluster.shell("ctl", &format!("chown -R u1:u1 {}", store.path))?;
    with_file(cluster, "ctl", CONFIG, Some(&theirs), || {
        with_config(cluster, "n1", &format!("{theirs}[agent]\nverify = \"always\"\n"), || {
            ["go:1", "hpc:1"].into_iter().try_for_each(|image| starts_by_fuse(cluster, "u1", image).context(image))
        })
    })?;
    // An administrator's own, on a node that is told to do without the kernel.
    cluster.shell("ctl", &format!("chown -R root:root {}", store.path))?;
    with_file(cluster, "ctl", CONFIG, Some(&theirs), || {
        with_config(cluster, "n1", &format!("{theirs}[agent]\nmounts = \"fuse\"\n"), || {
            ["go:1", "hpc:1"].into_iter().try_for_each(|image| starts_by_fuse(cluster, "u2", image).context(image))
        })
    })
}

fn a_layer_that_was_changed_is_refused(cluster: &Cluster) -> anyhow::Result<()> {
    let layer = cluster.shell(
        "ctl",
        "python3 -c \"import json; print(json.load(open('/shared/store/parallax/names/localhost%2Fstatic:latest'))['layers'][0]['diff_id'])\"",
    )?;
    let layer = layer.trim();
    let path = cluster.shared().join(format!("store/parallax/layers/{layer}.squash"));
    let run = || cluster.srun("u1", &["-w", "n1", "--parallax-image=static", "hello"]);
    // A byte in the padding: the file is as good a SquashFS as before.
    let file = fs::OpenOptions::new().read(true).write(true).open(&path)?;
    let last = file.metadata()?.len() - 1;
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    let refused = |done: Done| -> anyhow::Result<()> {
        ensure!(done.code == 125 && done.stderr.matches("parallax: ").count() == 1, "{done:?}");
        for part in [layer, "is not what was migrated", "SHA-256", "parallax verify"] {
            ensure!(done.stderr.contains(part), "no {part:?}: {done:?}");
        }
        Ok(())
    };
    let change = |with: u8| file.write_all_at(&[with], last);
    let tested: anyhow::Result<()> = ["mounts = \"auto\"", "mounts = \"fuse\""].into_iter().try_for_each(|mounts| {
        for verify in ["first", "always"] {
            with_config(cluster, "n1", &format!("{STORE}[agent]\n{mounts}\nverify = \"{verify}\"\n"), || {
                run()?.success()?;
                change(byte[0] ^ 1)?;
                refused(run()?)?;
                change(byte[0])?;
                run()?.success().map(drop)
            })
            .with_context(|| format!("{mounts}, {verify}"))?;
        }
        Ok(())
    });
    change(byte[0])?;
    tested?;
    // Nobody asked, nobody looks.
    change(byte[0] ^ 1)?;
    let unchecked = run();
    change(byte[0])?;
    unchecked?.success().map(drop)
}

fn idle_layers_stay_if_told(cluster: &Cluster) -> anyhow::Result<()> {
    let devices = || cluster.shell("n1", "grep -o '^.* - squashfs .*' /proc/1/mountinfo | sort");
    with_config(cluster, "n1", &format!("{STORE}[agent]\nkeep_warm = 3600\n"), || {
        cluster.srun("u1", &["-w", "n1", "--parallax-image=layers40", "true"])?.success()?;
        wait_for_steps(cluster, "n1")?;
        let (idle, mounted) = (cluster.agent_status("n1")?, devices()?);
        ensure!(idle.steps.is_empty() && idle.layers.len() >= 40, "{} layers", idle.layers.len());
        cluster.srun("u2", &["-w", "n1", "--parallax-image=layers40", "true"])?.success()?;
        // srun may return before the step's own mounts are gone.
        wait_for_steps(cluster, "n1")?;
        ensure!(devices()? == mounted, "they were mounted anew");
        Ok(())
    })?;
    // An agent that is started anew has no use for them.
    ensure!(devices()?.is_empty(), "they are still mounted");
    Ok(())
}

fn files_are_read_as_the_site_wants(cluster: &Cluster) -> anyhow::Result<()> {
    for (key, direct) in [("", "0"), ("layer_reads = \"direct\"\n", "1")] {
        with_config(cluster, "n1", &format!("{STORE}[agent]\n{key}"), || {
            let step = HeldStep::start(cluster, "u1", &["-w", "n1", "--parallax-image=debian"], 1, "echo started")?;
            let devices =
                cluster.shell("n1", "sed -n 's|.* - squashfs /dev/\\(loop[0-9]*\\) .*|\\1|p' /proc/1/mountinfo")?;
            ensure!(!devices.is_empty(), "no layer is mounted");
            for device in devices.lines() {
                let flag = fs::read_to_string(format!("/sys/block/{device}/loop/dio"))?;
                ensure!(flag.trim() == direct, "{device} with {key:?}: {flag}");
            }
            step.finish()?;
            wait_for_steps(cluster, "n1")
        })?;
    }
    Ok(())
}
