//! Where tasks run: the processors that Slurm binds them to.

use anyhow::ensure;
use integration_tests::cluster::Cluster;

use super::same;
use crate::cluster::with_file;

tests! { cluster:
    tasks_have_the_processors_that_slurm_gives_them,
}

const SLURM: &str = "/etc/slurm/slurm.conf";

/// Runs `body` while Slurm binds the tasks on n1, as far as a machine of two processors shows it.
fn with_binding(cluster: &Cluster, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let restart = || cluster.service("n1", "stop", "slurmd").and_then(|()| cluster.service("n1", "start", "slurmd"));
    // srun and slurmd read it themselves.
    let text = cluster.shell("n1", &format!("cat {SLURM}"))?;
    let text = text.replace("TaskPlugin=task/none", "TaskPlugin=task/affinity");
    let result = with_file(cluster, "ctl", SLURM, Some(&text), || {
        with_file(cluster, "n1", SLURM, Some(&text), || restart().and_then(|()| body()))
    });
    restart()?;
    result
}

fn tasks_have_the_processors_that_slurm_gives_them(cluster: &Cluster) -> anyhow::Result<()> {
    with_binding(cluster, || {
        let show =
            "sh -c 'echo $SLURM_PROCID $(grep -E \"^(Cpus|Mems)_allowed_list\" /proc/self/status) $SLURM_CPU_BIND'";
        for option in [
            "--cpu-bind=none",
            "--cpu-bind=rank",
            "--cpu-bind=cores",
            "--cpu-bind=threads",
            "--cpu-bind=mask_cpu:0x2,0x1",
            "--hint=nomultithread",
            "--hint=compute_bound",
            "--hint=memory_bound",
            "--distribution=block:block",
            "--distribution=cyclic:cyclic",
            "--distribution=plane=1",
            "--ntasks-per-core=1",
            "-c2 --cpu-bind=cores",
        ] {
            same(cluster, option, &format!("srun -w n1 -n2 {option} $IMAGE {show}"))?;
        }
        // That tasks are bound at all.
        let one = same(cluster, "map_cpu", &format!("srun -w n1 -n2 --cpu-bind=map_cpu:1,0 $IMAGE {show}"))?;
        let starts = |begin: &str| one.output.iter().any(|line| line.starts_with(begin));
        ensure!(starts("0 Cpus_allowed_list: 1 ") && starts("1 Cpus_allowed_list: 0 "), "{one:?}");
        Ok(())
    })
}
