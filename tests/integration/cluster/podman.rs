//! `podman` mode: tasks on the node, where a plain `podman run` finds the image; and what batch scripts inherit.

use std::fs;

use anyhow::ensure;
use integration_tests::cluster::Cluster;

tests! { cluster:
    a_plain_podman_run_starts_from_the_store,
    sizes_are_true_and_nothing_is_copied,
    a_batch_script_and_every_srun_in_it_have_the_image,
    an_allocation_hands_its_image_on,
    a_mode_that_was_said_is_handed_on,
    what_containers_leave_running_is_ended,
}

const MODE: &str = "--parallax-mode=podman";

fn a_plain_podman_run_starts_from_the_store(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "hostname; podman run --rm --pull=never debian sh -c 'id -u; stat -c %u:%g /etc/shadow' && \
                  podman run --rm --userns=keep-id debian sh -c 'id -u; stat -c %u:%g /etc/shadow' && \
                  podman info --format '{{.Store.GraphDriverName}} {{index .Store.GraphStatus \"Native Overlay Diff\"}}' && \
                  ps -eo comm= | grep -ic fuse";
    let done = cluster.srun("u1", &["-w", "n1", "--parallax-image=debian", MODE, "sh", "-c", script])?;
    let lines: Vec<&str> = done.stdout.lines().collect();
    ensure!(lines[..5] == ["n1", "0", "0:42", "1001", "0:42"], "{done:?}");
    ensure!(lines.last() == Some(&"0"), "FUSE is at work: {done:?}");
    Ok(())
}

fn sizes_are_true_and_nothing_is_copied(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "podman images --format '{{.Repository}} {{.Size}} {{.ReadOnly}}'; \
                  podman run --rm --userns=keep-id python true || podman run --rm --entrypoint '' --userns=keep-id python true; \
                  podman unshare du -sk $(podman info --format '{{.Store.GraphRoot}}') | cut -f1";
    let done = cluster.srun("u1", &["--parallax-image=python", MODE, "bash", "-c", script])?.success()?;
    let listed = cluster.run("ctl", "u1", &["parallax", "list", "--json"])?.success()?;
    let images: serde_json::Value = serde_json::from_str(&listed.stdout)?;
    let python = images.as_array().into_iter().flatten().find(|image| image["names"][0] == "localhost/python:latest");
    let size = python.and_then(|image| image["size"].as_u64()).unwrap_or_default();
    let megabytes = format!("localhost/python {:.0} MB true", f64::from(u32::try_from(size)?) / 1e6);
    ensure!(done.stdout.starts_with(&megabytes), "not {megabytes}: {done:?}");
    let kept: u64 = done.stdout.lines().last().unwrap_or_default().parse()?;
    ensure!(kept < 4096, "Podman copied {kept} KiB of the image");
    Ok(())
}

fn a_batch_script_and_every_srun_in_it_have_the_image(cluster: &Cluster) -> anyhow::Result<()> {
    let home = cluster.home("u1");
    let script = "#!/bin/bash\n#SBATCH --parallax-image=python -N2 -n2 --output=batch.out\n\
                  test -e /opt/tool && echo in the image\n\
                  podman run --rm --entrypoint '' python tool\n\
                  srun sh -c 'echo srun: $(hostname) $(test -e /opt/tool && echo in the image)'\n\
                  srun --export=NONE sh -c 'test -e /opt/tool && echo exported nothing, in the image'\n\
                  srun --parallax-image=debian sh -c 'test -e /opt/tool || echo in another image'\n\
                  srun -N1 -n1 --parallax-image=none sh -c 'test -e /usr/sbin/slurmd && echo on the node'\n";
    fs::write(home.join("batch.sh"), script)?;
    let done = cluster.run("ctl", "u1", &["sbatch", "--wait", "batch.sh"])?;
    let output = fs::read_to_string(home.join("batch.out"))?;
    ensure!(done.code == 0, "{done:?}\n{output}");
    let count = |line: &str| output.lines().filter(|l| *l == line).count();
    ensure!(count("in the image") == 0, "the script itself ran in the image:\n{output}");
    ensure!(count("srun: n1 in the image") == 1 && count("srun: n2 in the image") == 1, "{output}");
    ensure!(count("exported nothing, in the image") == 2, "{output}");
    ensure!(count("in another image") == 2 && count("on the node") == 1, "{output}");
    Ok(())
}

fn an_allocation_hands_its_image_on(cluster: &Cluster) -> anyhow::Result<()> {
    let line =
        ["salloc", "-N1", "--parallax-image=python", "srun", "sh", "-c", "test -e /opt/tool && echo in the image"];
    let done = cluster.run("ctl", "u1", &line)?.success()?;
    ensure!(done.stdout.contains("in the image"), "{done:?}");
    Ok(())
}

/// A mode that was said is handed on as well; one that was not leaves every srun at its default.
fn a_mode_that_was_said_is_handed_on(cluster: &Cluster) -> anyhow::Result<()> {
    let inner = "srun --overlap sh -c 'test -e /opt/tool && echo in the image || echo on the node'";
    let said = cluster.srun("u1", &["--parallax-image=python", MODE, "sh", "-c", inner])?.success()?;
    ensure!(said.stdout == "on the node\n", "{said:?}");
    let not_said = ["salloc", "-N1", "--parallax-image=python", "sh", "-c", inner];
    let not_said = cluster.run("ctl", "u1", &not_said)?.success()?;
    ensure!(not_said.stdout.contains("in the image"), "{not_said:?}");
    let left = cluster.srun("u1", &["--parallax-image=python", MODE, "env"])?.success()?;
    ensure!(!left.stdout.contains("\n_SLURM_SPANK"), "{left:?}");
    Ok(())
}

/// conmon and containers leave the step's process tree; the end of the step ends them all the same.
fn what_containers_leave_running_is_ended(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "podman run --detach debian sleep 1000 >/dev/null && podman run --detach --userns=keep-id debian sleep 1000 && podman ps -q | wc -l";
    let done = cluster.srun("u1", &["--parallax-image=debian", MODE, "sh", "-c", script])?.success()?;
    ensure!(done.stdout.trim_end().ends_with('2'), "{done:?}");
    Ok(())
}
