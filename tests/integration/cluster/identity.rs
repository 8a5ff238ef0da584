//! Who and what a step is said to be: ids, groups, owners, nodes, and the image that runs.

use std::fs;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::Cluster;
use integration_tests::held::HeldStep;

use super::backend::with_config;
use crate::cluster::with_file;

tests! { cluster:
    what_runs_is_named,
    pinned_image_runs_after_its_tag_moved,
    trusted_owner_appears_later,
    setgroups_is_denied_without_subordinate_groups,
    in_use_markers_of_other_nodes_stay,
    subordinate_ranges_are_merged,
    overlapping_subordinate_line_is_named,
}

fn id_of(cluster: &Cluster, image: &str) -> anyhow::Result<String> {
    let done = cluster.run("ctl", "root", &["parallax", "inspect", "--json", image])?.success()?;
    let inspected: serde_json::Value = serde_json::from_str(&done.stdout)?;
    Ok(inspected["id"].as_str().context("no id")?.to_owned())
}

/// A step whose environment has the id of another image beside the name, as somebody may forge it within a job.
fn what_runs_is_named(cluster: &Cluster) -> anyhow::Result<()> {
    let id = id_of(cluster, "python")?;
    let variable = format!("SLURM_PARALLAX_PIN=- debian {id}");
    let in_job = ["salloc", "-Q", "-w", "n1", "env", &variable];
    let arguments = ["-w", "n1", "--parallax-image=debian"];
    let script = "test -e /opt/tool && echo python || echo debian";
    let step = HeldStep::start_with(cluster, "u1", &in_job, &arguments, 1, script)?;
    ensure!(step.lines == ["python"], "{:?}", step.lines);
    let status = cluster.agent_status("n1")?;
    let held = status.steps.first().context("no step")?;
    ensure!(held.image == "debian" && held.image_id.as_ref() == Some(&id), "{held:?}");
    ensure!(held.image_names.iter().any(|name| name == "localhost/python:latest"), "{held:?}");
    let shown = cluster.run("n1", "root", &["parallax", "status"])?.success()?.stdout;
    // Other tests may have given the image other names.
    let (runs, with_id) = ("debian (runs localhost/python:latest", format!("id {id:.12})"));
    ensure!(shown.contains(runs) && shown.contains(&with_id), "{shown}");
    for file in ["/run/parallax/leases/*.json", "/run/parallax/steps/*/step.json"] {
        ensure!(cluster.shell("n1", &format!("cat {file}"))?.contains(&id), "{file} does not name what runs");
    }
    let log = cluster.shell("n1", "grep granted /var/log/cluster/n1-agent.log | tail -1")?;
    ensure!(log.contains(&id) && log.contains("localhost/python:latest"), "{log}");
    // A later agent says the same.
    cluster.service("n1", "stop", "agent")?;
    cluster.service("n1", "start", "agent")?;
    let shown = cluster.run("n1", "root", &["parallax", "status"])?.success()?.stdout;
    ensure!(shown.contains(runs) && shown.contains(&with_id), "{shown}");
    step.finish()?;
    for mode in ["run", "podman"] {
        let mode = format!("--parallax-mode={mode}");
        let step = ["srun", "-w", "n1", "--parallax-image=debian", &mode, "true"];
        let done = cluster.run("ctl", "u1", &[&in_job[..], &step].concat())?.success()?;
        let notice = format!("parallax: the step runs the image of submit time, id {id:.12} (localhost/python:latest");
        ensure!(done.stderr.matches(&notice).count() == 1, "{done:?}");
    }
    Ok(())
}

fn pinned_image_runs_after_its_tag_moved(cluster: &Cluster) -> anyhow::Result<()> {
    let tag = |image: &str| cluster.run("ctl", "root", &["parallax", "tag", image, "moving:1"])?.success().map(drop);
    tag("python")?;
    let printed = ["salloc", "-w", "n1", "--parallax-image=moving:1", "printenv", "SLURM_PARALLAX_PIN"];
    let resolved = cluster.run("ctl", "u1", &printed)?.success()?.stdout;
    let variable = format!("SLURM_PARALLAX_PIN={}", resolved.trim());
    let step = ["srun", "-w", "n1", "--parallax-image=moving:1", "test", "-e", "/opt/tool"];
    let step = [&["salloc", "-Q", "-w", "n1", "env", &*variable], &step[..]].concat();
    let before = cluster.run("ctl", "u1", &step)?;
    tag("debian")?;
    let after = cluster.run("ctl", "u1", &step)?;
    let anew = cluster.srun("u1", &["-w", "n1", "--parallax-image=moving:1", "test", "-e", "/opt/tool"])?;
    cluster.run("ctl", "root", &["parallax", "rm", "moving:1"])?.success()?;
    ensure!(before.code == 0 && !before.stderr.contains("parallax: "), "{before:?}");
    ensure!(after.code == 0 && after.stderr.contains("which \"moving:1\" does not mean now"), "{after:?}");
    ensure!(anew.code == 1 && !anew.stderr.contains("parallax: "), "{anew:?}");
    Ok(())
}

/// The account that owns a store is made while the agent runs.
fn trusted_owner_appears_later(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.shell(
        "ctl",
        "install -d -m 0755 /shared/images-store
         parallax --quiet --store /shared/images-store migrate oci:/images/debian --name owned:1
         chown -R 4321:4321 /shared/images-store",
    )?;
    let text = "stores = [\"/shared/images-store\"]\n[agent]\nmounts = \"native\"\ntrusted_owners = [\"images\"]\n";
    let run = || cluster.srun("u1", &["-w", "n1", "--parallax-image=owned:1", "true"]);
    let tested = with_file(cluster, "ctl", CONFIG, Some(text), || {
        with_config(cluster, "n1", text, || {
            let refused = run()?;
            let reason = "belongs to the user 4321, who is not one of the configuration's trusted_owners";
            ensure!(refused.code == 125 && refused.stderr.contains(reason), "{refused:?}");
            let users = cluster.shell("n1", "cat /etc/passwd")?;
            let more = format!("{users}images:x:4321:4321::/nonexistent:/usr/sbin/nologin\n");
            with_file(cluster, "n1", "/etc/passwd", Some(&more), || run()?.success().map(drop))
        })
    });
    fs::remove_dir_all(cluster.shared().join("images-store"))?;
    tested
}

const CONFIG: &str = "/etc/parallax/parallax.toml";

fn setgroups_is_denied_without_subordinate_groups(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "namespace=$(dirname $CONTAINERS_STORAGE_CONF)/user-namespace
        nsenter --user=$namespace --preserve-credentials cat /proc/self/setgroups
        nsenter --user=$namespace --preserve-credentials python3 -c 'import os; os.setgroups([])' 2>&1 | tail -1";
    for (user, allowed) in [("u1", true), ("u3", false)] {
        let arguments = ["-w", "n1", "--parallax-image=static", "--parallax-mode=podman", "sh", "-c", script];
        let done = cluster.srun(user, &arguments)?.success()?;
        let denied = "deny\nPermissionError: [Errno 1] Operation not permitted\n";
        ensure!(done.stdout == if allowed { "allow\n" } else { denied }, "{user}: {done:?}");
        let podman =
            ["-w", "n1", "--parallax-image=static", "--parallax-mode=podman", "podman", "run", "--rm", "static"];
        ensure!(cluster.srun(user, &podman)?.success()?.stdout.contains("hello"), "{user}");
    }
    Ok(())
}

/// Another cluster's node of the same name, and what an earlier release left.
fn in_use_markers_of_other_nodes_stay(cluster: &Cluster) -> anyhow::Result<()> {
    let id = id_of(cluster, "python")?;
    let holds = cluster.shared().join("store/parallax/holds");
    let others = [format!("{id}.n1@0123456789ab"), format!("{id}.n1")];
    for other in &others {
        fs::write(holds.join(other), "held\n")?;
    }
    let files = || -> anyhow::Result<Vec<String>> {
        let names = fs::read_dir(&holds)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    };
    // An agent that starts removes what it left itself, and its first step with an image shows that it is through with that.
    cluster.service("n1", "stop", "agent")?;
    cluster.service("n1", "start", "agent")?;
    let step = HeldStep::start(cluster, "u1", &["-w", "n1", "--parallax-image=debian"], 1, "echo started")?;
    let debian = format!("{}.n1@", id_of(cluster, "debian")?);
    let deadline = std::time::Instant::now() + integration_tests::cluster::TEST_TIMEOUT;
    while !files()?.iter().any(|name| name.starts_with(&debian)) {
        ensure!(std::time::Instant::now() < deadline, "no in-use marker of this node: {:?}", files()?);
    }
    step.finish()?;
    let left = files()?;
    // By its id: other tests may have given it other names, of which one more or less would be no removal.
    let refused = cluster.run("ctl", "root", &["parallax", "rm", &id])?;
    for other in &others {
        fs::remove_file(holds.join(other)).with_context(|| format!("{other} is gone: {left:?}"))?;
    }
    ensure!(refused.code == 1 && refused.stderr.contains("n1, n1@0123456789ab"), "{refused:?}");
    Ok(())
}

/// Runs `body` while n1 has these lines in /etc/subuid and /etc/subgid.
fn with_subordinate(cluster: &Cluster, lines: &str, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    with_file(cluster, "n1", "/etc/subuid", Some(lines), || with_file(cluster, "n1", "/etc/subgid", Some(lines), body))
}

/// Ranges under name and number: the maps are Podman's own, entry by entry, so that it copies nothing.
fn subordinate_ranges_are_merged(cluster: &Cluster) -> anyhow::Result<()> {
    let arguments = |mode: &'static str| ["-w", "n1", "--parallax-image=debian", mode];
    let lines = "1001:300000:30000\nu2:165536:65536\nu1:100000:1000\n1001:200000:40000\n";
    with_subordinate(cluster, lines, || {
        let own = cluster.run("n1", "u1", &["podman", "unshare", "cat", "/proc/self/uid_map"])?.success()?.stdout;
        let own: Vec<Vec<&str>> = own.lines().map(|line| line.split_whitespace().collect()).collect();
        let expected =
            [["0", "1001", "1"], ["1", "100000", "1000"], ["1001", "200000", "40000"], ["41001", "300000", "30000"]];
        ensure!(own == expected, "Podman's own map is {own:?}");
        cluster.shell("n1", "rm -rf /tmp/*1001* /run/user/1001; pkill -u u1 catatonit || :")?;

        let seen = "id -u; stat -c %u:%g /etc/shadow";
        let mut run = arguments("--parallax-mode=run").to_vec();
        run.extend(["sh", "-c", seen]);
        let done = cluster.srun("u1", &run)?.success()?;
        ensure!(done.stdout == "1001\n0:42\n", "{done:?}");

        let script = format!(
            "podman unshare cat /proc/self/uid_map | xargs -n3 | tail -1
             podman run --rm --pull=never debian sh -c '{seen}'
             podman run --rm --pull=never --userns=keep-id debian sh -c '{seen}'
             ls $(dirname $CONTAINERS_STORAGE_CONF)/graph/overlay | grep -vx l | wc -l"
        );
        let mut podman = arguments("--parallax-mode=podman").to_vec();
        podman.extend(["sh", "-c", &script]);
        let done = cluster.srun("u1", &podman)?.success()?;
        ensure!(done.stdout == "41001 300000 30000\n0\n0:42\n1001\n0:42\n0\n", "{done:?}");
        Ok(())
    })
}

fn overlapping_subordinate_line_is_named(cluster: &Cluster) -> anyhow::Result<()> {
    let run = || cluster.srun("u1", &["-w", "n1", "--parallax-image=debian", "true"]);
    for (lines, fault) in [
        ("u1:100000:65536\nu1:100000:65536\n", "line 2 of /etc/subuid (\"u1:100000:65536\") overlaps line 1"),
        ("u1:100000:65536\n1001:165535:10\n", "line 2 of /etc/subuid (\"1001:165535:10\") overlaps line 1"),
        ("u1:1000:65536\n", "line 1 of /etc/subuid (\"u1:1000:65536\") contains the user's own id 1001"),
    ] {
        with_subordinate(cluster, lines, || {
            let refused = run()?;
            ensure!(refused.code == 125 && refused.stderr.contains(fault), "{refused:?}");
            ensure!(refused.stderr.matches("parallax: ").count() == 1, "{refused:?}");
            let doctor = cluster.run("n1", "root", &["parallax", "doctor", "--user", "u1"])?;
            ensure!(doctor.code == 1 && doctor.stdout.contains(fault), "{doctor:?}");
            Ok(())
        })?;
    }
    run()?.success().map(drop)
}
