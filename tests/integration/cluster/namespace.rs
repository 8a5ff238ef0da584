//! Jobs with a mount namespace of their own (`JobContainerType=job_container/tmpfs`). That Slurm can start them on a machine
//! of namespaces is the work of `tests/cluster/lib/oldest-namespace.py`.

use std::fs;
use std::time::Instant;

use anyhow::{bail, ensure};
use integration_tests::clean::{NODES, wait_for_no_lease};
use integration_tests::cluster::{Cluster, TEST_TIMEOUT};
use integration_tests::held::HeldStep;

tests! { cluster:
    a_step_has_its_image_in_the_jobs_own_namespace,
    an_ended_step_is_gone_from_jobs_that_began_during_it,
    steps_share_a_container_on_every_node,
}

/// Runs `body` while every job gets a mount namespace with a `/tmp` of its own.
fn with_namespaces(cluster: &Cluster, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let machines = ["ctl", "n1", "n2"];
    let setting = "\nJobContainerType=job_container/tmpfs\nPrologFlags=Contain\n";
    let mut before = Vec::new();
    for machine in machines {
        let slurm = cluster.path_on(machine, "/etc/slurm/slurm.conf")?;
        let text = fs::read_to_string(&slurm)?;
        fs::write(&slurm, format!("{text}{setting}"))?;
        fs::write(slurm.with_file_name("job_container.conf"), "AutoBasePath=true\nBasePath=/var/nodetmp\n")?;
        before.push((slurm, text));
    }
    let result = reconfigure(cluster, true).and_then(|()| body());
    for (slurm, text) in before {
        fs::remove_file(slurm.with_file_name("job_container.conf"))?;
        fs::write(slurm, text)?;
    }
    reconfigure(cluster, false)?;
    // As they were, name included: slurmd that starts itself anew is called as its file, `slurmd-wlm` on Debian.
    for node in NODES {
        cluster.service(node, "stop", "slurmd")?;
        cluster.service(node, "start", "slurmd")?;
    }
    result
}

/// Has Slurm read its configuration again. Its daemons start themselves anew one after the other and tell nobody when they are
/// done, so jobs are tried until one shows on both nodes that it is `apart` from them, or not, as it should be now.
fn reconfigure(cluster: &Cluster, apart: bool) -> anyhow::Result<()> {
    cluster.shell("ctl", "scontrol reconfigure")?;
    let nodes = NODES.map(|node| cluster.shell(node, "readlink /proc/1/ns/mnt"));
    let nodes: Vec<String> = nodes.into_iter().collect::<Result<_, _>>()?;
    let deadline = Instant::now() + TEST_TIMEOUT;
    while Instant::now() < deadline {
        let done = cluster.srun("root", &["-N2", "-n2", "--label", "readlink", "/proc/self/ns/mnt"])?;
        let as_wanted = |(number, node): (usize, &String)| {
            let line = done.stdout.lines().find_map(|line| line.strip_prefix(&format!("{number}: ")));
            line.is_some_and(|namespace| (namespace != node.trim()) == apart)
        };
        if done.code == 0 && nodes.iter().enumerate().all(as_wanted) {
            return Ok(());
        }
    }
    bail!("Slurm does not take its configuration")
}

/// Makes sure that a job is in another mount namespace than its node.
fn is_apart(cluster: &Cluster, namespace: &str) -> anyhow::Result<()> {
    let node = cluster.shell("n1", "readlink /proc/1/ns/mnt")?;
    ensure!(node.trim() != namespace, "the job is in the node's own namespace: Slurm was not set as meant");
    Ok(())
}

fn a_step_has_its_image_in_the_jobs_own_namespace(cluster: &Cluster) -> anyhow::Result<()> {
    with_namespaces(cluster, || {
        let done = cluster.srun("u1", &["-w", "n1", "readlink", "/proc/self/ns/mnt"])?.success()?;
        is_apart(cluster, done.stdout.trim())?;
        let run = [
            "-N2",
            "-n4",
            "--parallax-image=python",
            "sh",
            "-c",
            "tool && grep -c idmapped /proc/self/mountinfo || true",
        ];
        let done = cluster.srun("u1", &run)?.success()?;
        ensure!(done.stdout.matches("tool: u1").count() == 4, "{done:?}");
        let podman = [
            "-w",
            "n1",
            "--parallax-image=python",
            "--parallax-mode=podman",
            "podman",
            "run",
            "--rm",
            "--entrypoint",
            "",
            "python",
            "tool",
        ];
        let done = cluster.srun("u1", &podman)?.success()?;
        ensure!(done.stdout.contains("tool: app"), "{done:?}");
        Ok(())
    })
}

/// A job's namespace is born with copies of the mounts of the steps that run then. They must not keep these steps' layers.
fn an_ended_step_is_gone_from_jobs_that_began_during_it(cluster: &Cluster) -> anyhow::Result<()> {
    with_namespaces(cluster, || {
        let image = ["-w", "n1", "--parallax-image=python"];
        let early = HeldStep::start(cluster, "u1", &image, 1, "echo started")?;
        let script = "readlink /proc/self/ns/mnt";
        let late = HeldStep::start(cluster, "u2", &["-w", "n1"], 1, script)?;
        is_apart(cluster, &late.lines[0])?;
        early.finish()?;
        wait_for_no_lease(cluster, "n1")?;
        let left =
            cluster.shell("n1", "grep -hE ' - squashfs |/run/parallax/' /proc/[0-9]*/mountinfo | sort -u || true")?;
        ensure!(left.is_empty(), "mounts of the ended step:\n{left}");
        let layers = integration_tests::clean::busy_loop_devices(cluster)?;
        ensure!(layers.is_empty(), "loop devices of the ended step: {layers:?}");
        late.finish()
    })
}

/// With an extern step on every node of the job, and with the job's own mount namespace.
fn steps_share_a_container_on_every_node(cluster: &Cluster) -> anyhow::Result<()> {
    with_namespaces(cluster, || {
        let step = "srun -Q -N2 --ntasks-per-node=1 --parallax-image=debian --parallax-name=env sh -c";
        let script = format!(
            "{step} 'echo $SLURMD_NODENAME >/var/tmp/written'; {step} 'cat /var/tmp/written' | sort; \
             srun -Q -N2 --ntasks-per-node=1 --parallax-image=debian cat /var/tmp/written"
        );
        let done = cluster.run("ctl", "u1", &["salloc", "-Q", "-N2", "-n2", "bash", "-c", &script])?;
        ensure!(done.stdout == "n1\nn2\n" && done.stderr.matches("No such file").count() == 2, "{done:?}");
        for node in NODES {
            wait_for_no_lease(cluster, node)?;
        }
        Ok(())
    })
}
