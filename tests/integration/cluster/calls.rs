//! What a step asks of the shared store on its node: a file system that thousands of nodes look at must hardly notice it.

use anyhow::ensure;
use integration_tests::clean::wait_for_steps;
use integration_tests::cluster::Cluster;
use integration_tests::held::HeldStep;
use integration_tests::tracing::{StoreCalls, Trace};

use crate::OnCluster;

pub const TESTS: &[(&str, OnCluster)] = &[
    ("cluster::calls::a_node_without_the_image_looks_at_each_layer_once", a_node_without_the_image),
    ("cluster::calls::a_node_with_the_image_looks_at_its_record_only", a_node_with_the_image),
];

/// The layers of `layers40`.
const LAYERS: u32 = 40;

fn step(cluster: &Cluster, image: &str) -> anyhow::Result<()> {
    let option = format!("--parallax-image={image}");
    cluster.srun("u1", &["-w", "n1", "-n4", &option, "true"])?.success().map(drop)
}

fn a_node_without_the_image(cluster: &Cluster) -> anyhow::Result<()> {
    let trace = Trace::start(cluster, "n1")?;
    step(cluster, "layers40")?;
    wait_for_steps(cluster, "n1")?;
    let StoreCalls { paths, locks } = trace.finish()?;
    ensure!(paths <= LAYERS + 4 && locks == 0, "{paths} paths were looked up and {locks} locks taken");
    // Fewer would mean that they are not seen.
    ensure!(paths > LAYERS, "only {paths} paths were looked up");
    Ok(())
}

fn a_node_with_the_image(cluster: &Cluster) -> anyhow::Result<()> {
    let held = HeldStep::start(cluster, "u2", &["-w", "n1", "-n1", "--parallax-image=layers40"], 1, "echo started")?;
    let trace = Trace::start(cluster, "n1")?;
    step(cluster, "layers40")?;
    let StoreCalls { paths, locks } = trace.finish()?;
    held.finish()?;
    ensure!((1..=3).contains(&paths) && locks == 0, "{paths} paths were looked up and {locks} locks taken");
    Ok(())
}
