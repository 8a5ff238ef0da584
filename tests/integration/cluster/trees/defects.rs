//! Defects of DUCC's repositories: each is named, and does not matter for what runs.

use anyhow::ensure;
use integration_tests::cluster::Cluster;

use super::repository::{NAME, REPOSITORY, ids, with_names};
use super::run;

tests! { cluster:
    a_file_that_an_upper_layer_deletes_is_gone,
    defects_of_a_repository_are_named,
}

/// Adds the layers of the image, as DUCC unpacks them: the upper one deletes a file of the base by a file of its own. In the unpacked
/// image the file is gone.
fn add_layers(cluster: &Cluster) -> anyhow::Result<()> {
    let [id, _] = ids();
    let (base, top) = ("11".repeat(32), "22".repeat(32));
    let make = format!(
        "cd {REPOSITORY}; mkdir -p .layers/11/{base}/layerfs/etc .layers/22/{top}/layerfs/etc
         echo gone > .layers/11/{base}/layerfs/etc/gone; touch .layers/22/{top}/layerfs/etc/.wh.gone
         mkdir -p .flat/ab/{id}/.singularity.d
         echo '{{\"config\":{{\"digest\":\"sha256:{id}\",\"size\":1}},\"layers\":[{{\"digest\":\"sha256:{base}\",\"size\":1}},\
            {{\"digest\":\"sha256:{top}\",\"size\":1}}]}}' > .metadata/{NAME}/manifest.json"
    );
    cluster.shell("ctl", &make).map(drop)
}

fn a_file_that_an_upper_layer_deletes_is_gone(cluster: &Cluster) -> anyhow::Result<()> {
    with_names(cluster, || {
        add_layers(cluster)?;
        let script = "ls /etc/gone /etc/.wh.gone 2>/dev/null; cat /usr/share/doc/tiny/README";
        let done = run(cluster, "u1", NAME, &["sh", "-c", script])?.success()?;
        ensure!(done.stdout == "A few programs of Debian.\n", "{done:?}");
        let deep = cluster.run("ctl", "u1", &["parallax", "verify", "--trees", "--deep", NAME])?;
        ensure!(deep.code == 1 && deep.stdout.contains("/etc/.wh.gone stands for a deleted file"), "{deep:?}");
        Ok(())
    })
}

fn defects_of_a_repository_are_named(cluster: &Cluster) -> anyhow::Result<()> {
    let (top, below, other) = ("33".repeat(32), "44".repeat(32), "55".repeat(32));
    with_names(cluster, || {
        add_layers(cluster)?;
        let break_it = format!(
            "cd {REPOSITORY}; rm -r .layers/11; mkdir -p podmanStore/overlay-layers podmanStore/overlay/{below}
             echo '[{{\"id\":\"{top}\",\"parent\":\"{below}\"}},{{\"id\":\"{top}\",\"parent\":\"{other}\"}},{{\"id\":\"{below}\"}}]' \
                > podmanStore/overlay-layers/layers.json
             printf NOPREFIX > podmanStore/overlay/{below}/lower; rm -r .flat/ab/*/.singularity.d"
        );
        cluster.shell("ctl", &break_it)?;
        let done = cluster.run("ctl", "u1", &["parallax", "verify", "--trees"])?;
        let expected = [
            "layerfs is not there, and the image is listed: a garbage collection took it",
            "has lost the dot files",
            "variables, entry point and working directory are unknown",
            "has the layer 333333333333 on two others",
            "names \"NOPREFIX\", which Podman does not find",
        ];
        ensure!(done.code == 1 && expected.iter().all(|part| done.stdout.contains(part)), "{done:?}");
        run(cluster, "u1", NAME, &["id"])?.success()?;
        // A listed image whose directory was collected is named, and not taken for an unknown one.
        cluster.shell("ctl", &format!("rm -r {REPOSITORY}/.flat/ab"))?;
        let done = cluster.run("ctl", "u1", &["parallax", "verify", "--trees", NAME])?;
        ensure!(done.code == 1 && done.stdout.contains("so the image cannot be run"), "{done:?}");
        let done = run(cluster, "u1", NAME, &["true"])?;
        ensure!(done.code == 1 && !done.stderr.contains("did you mean"), "{done:?}");
        Ok(())
    })
}
