//! What a step asks of the shared store on its node: a file system that thousands of nodes look at must hardly notice it.

use anyhow::ensure;
use integration_tests::clean::wait_for_steps;
use integration_tests::cluster::Cluster;
use integration_tests::held::HeldStep;
use integration_tests::load;
use integration_tests::many_images::{self, ManyImages};
use integration_tests::tracing::{STORE, StoreCalls, Trace};

tests! { cluster:
    a_node_without_the_image_looks_at_each_layer_once,
    a_node_with_the_image_looks_at_its_record_only,
    thousands_of_other_images_make_no_difference,
}

/// The layers of `layers40`.
const LAYERS: u32 = 40;
/// How many other images a store has for it to be large, in small and large runs.
const MANY: [usize; 2] = [800, 3000];

fn step(cluster: &Cluster, image: &str) -> anyhow::Result<()> {
    let option = format!("--parallax-image={image}");
    cluster.srun("u1", &["-w", "n1", "-n4", &option, "true"])?.success().map(drop)
}

fn a_node_without_the_image_looks_at_each_layer_once(cluster: &Cluster) -> anyhow::Result<()> {
    cold(cluster, STORE)
}

fn a_node_with_the_image_looks_at_its_record_only(cluster: &Cluster) -> anyhow::Result<()> {
    warm(cluster, STORE)
}

fn thousands_of_other_images_make_no_difference(cluster: &Cluster) -> anyhow::Result<()> {
    let images = [("debian", "oci:/images/debian"), ("layers40", "oci:/images/layers40")];
    let [small, large] = MANY;
    let many = ManyImages::install(cluster, "n1", &images, load::size(small, large)?)?;
    cold(cluster, many_images::STORE)?;
    warm(cluster, many_images::STORE)?;
    drop(many);
    Ok(())
}

fn cold(cluster: &Cluster, store: &'static str) -> anyhow::Result<()> {
    // With its first step in a store an agent opens the directory of its holds there, once in its life.
    step(cluster, "debian")?;
    wait_for_steps(cluster, "n1")?;
    let trace = Trace::start(cluster, "n1", store)?;
    step(cluster, "layers40")?;
    wait_for_steps(cluster, "n1")?;
    let StoreCalls { paths, locks, lines } = trace.finish()?;
    ensure!(paths <= LAYERS + 4 && locks == 0, "{paths} paths were looked up and {locks} locks taken: {lines:#?}");
    // Fewer would mean that they are not seen.
    ensure!(paths > LAYERS, "only {paths} paths were looked up");
    Ok(())
}

fn warm(cluster: &Cluster, store: &'static str) -> anyhow::Result<()> {
    let held = HeldStep::start(cluster, "u2", &["-w", "n1", "-n1", "--parallax-image=layers40"], 1, "echo started")?;
    let trace = Trace::start(cluster, "n1", store)?;
    step(cluster, "layers40")?;
    let StoreCalls { paths, locks, lines } = trace.finish()?;
    held.finish()?;
    ensure!((1..=3).contains(&paths) && locks == 0, "{paths} paths were looked up and {locks} locks taken: {lines:#?}");
    Ok(())
}
