//! MPI programs of an image, with the image's own library: no option but Slurm's, on one node and on two.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, Done};
use integration_tests::images;

use super::backend::{STORE, with_config};

tests! { cluster:
    open_mpi_runs_over_pmix,
    mpich_runs_over_pmi2,
    several_steps_of_a_job_run_at_once,
    open_mpi_runs_with_a_tmp_of_the_step,
}

/// The program of both images (`tests/images/mpi_check.c`).
const PROGRAM: &str = "mpi-check";
const TASKS: usize = 4;
/// The function in which a rank of Open MPI 5.0.7 ends with a segmentation fault, now and then, where the ranks leave the first fence of
/// `MPI_Init` far apart: it gets a message for a communicator that it does not have yet (open-mpi/ompi, issue 12495 and pull request 13559).
const RACE: &str = "mca_pml_ob1_recv_frag_callback_match";

/// Runs MPI programs, once more where Open MPI's own [`RACE`] ended one.
fn run(cluster: &Cluster, line: &[&str]) -> anyhow::Result<Done> {
    let mut done = cluster.run("ctl", "u1", line)?;
    for _ in 0..4 {
        if !done.stderr.contains(RACE) {
            break;
        }
        done = cluster.run("ctl", "u1", line)?;
    }
    done.success()
}

/// Runs `body` while the store has an image.
fn with_image(cluster: &Cluster, name: &str, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    images::migrate(cluster, name)?;
    let tested = body();
    cluster.run("ctl", "root", &["parallax", "rm", "--force", name])?.success()?;
    tested
}

fn open_mpi_runs_over_pmix(cluster: &Cluster) -> anyhow::Result<()> {
    with_image(cluster, "openmpi", || on_one_and_two_nodes(cluster, "--mpi=pmix", "--parallax-image=openmpi"))
}

fn mpich_runs_over_pmi2(cluster: &Cluster) -> anyhow::Result<()> {
    with_image(cluster, "mpich", || on_one_and_two_nodes(cluster, "--mpi=pmi2", "--parallax-image=mpich"))
}

/// Each step has directories and variables of its own, which the containers must not mix up.
fn several_steps_of_a_job_run_at_once(cluster: &Cluster) -> anyhow::Result<()> {
    let step =
        format!("srun --mpi=pmix --overlap -N2 -n{TASKS} --ntasks-per-node=2 --parallax-image=openmpi {PROGRAM}");
    let script = format!("{step} >one & {step} >two & wait; cat one; echo --; cat two; rm one two");
    let line = ["salloc", "--quiet", "-N2", "-n4", "--ntasks-per-node=2", "bash", "-c", &script];
    with_image(cluster, "openmpi", || {
        let done = run(cluster, &line)?;
        let (one, two) = done.stdout.split_once("--\n").with_context(|| format!("{done:?}"))?;
        [one, two].into_iter().try_for_each(|said| checked(said, 2)).with_context(|| done.stderr.clone())
    })
}

fn open_mpi_runs_with_a_tmp_of_the_step(cluster: &Cluster) -> anyhow::Result<()> {
    let own_tmp = format!("{STORE}[run]\ntmp = \"step\"\n");
    with_image(cluster, "openmpi", || {
        with_config(cluster, "n1", &own_tmp, || {
            with_config(cluster, "n2", &own_tmp, || {
                on_one_and_two_nodes(cluster, "--mpi=pmix", "--parallax-image=openmpi")
            })
        })
    })
}

fn on_one_and_two_nodes(cluster: &Cluster, library: &str, image: &str) -> anyhow::Result<()> {
    for nodes in [1, 2] {
        let spread = [format!("-N{nodes}"), format!("-n{TASKS}"), format!("--ntasks-per-node={}", TASKS / nodes)];
        let [nodes_option, tasks, per_node] = spread.each_ref().map(String::as_str);
        let line = ["srun", "--quiet", library, nodes_option, tasks, per_node, image, PROGRAM];
        let done = run(cluster, &line)?;
        ensure!(done.stderr.is_empty(), "{done:?}");
        checked(&done.stdout, nodes).with_context(|| format!("on {nodes} nodes"))?;
    }
    Ok(())
}

/// All ranks got what their neighbors sent and the same sum, and share memory with the others of their node.
fn checked(said: &str, nodes: usize) -> anyhow::Result<()> {
    let sum = TASKS * (TASKS - 1) / 2;
    let lines: BTreeSet<&str> = said.lines().collect();
    let expected: BTreeSet<String> = (0..TASKS)
        .map(|rank| {
            let from = (rank + TASKS - 1) % TASKS;
            let host = if rank < TASKS / nodes { "n1" } else { "n2" };
            format!("rank {rank} of {TASKS}: from {from}, sum {sum}, memory shared, host {host}")
        })
        .collect();
    ensure!(lines.iter().copied().eq(expected.iter().map(String::as_str)), "it said: {said}");
    Ok(())
}
