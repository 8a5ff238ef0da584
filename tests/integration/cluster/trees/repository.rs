//! Repositories of unpacked images in DUCC's layout: their images by path.

use anyhow::ensure;
use integration_tests::cluster::Cluster;

use super::{TINY, refused, run, with_trees};

tests! { cluster:
    settings_are_those_of_a_repository,
}

/// The repository, on all nodes. It belongs to u1, as DUCC's would to its account.
const REPOSITORY: &str = "/shared/repository";
/// The public name of its image.
const NAME: &str = "registry.example.org/library/unpacked:1";

/// The id of the image in the repository, and of another one.
fn ids() -> [String; 2] {
    ["ab", "cd"].map(|part| part.repeat(32))
}

/// Runs `body` with a repository that has one image with a public name and one without.
fn with_repository(cluster: &Cluster, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let [id, other] = ids();
    let make = format!(
        "rm -rf {REPOSITORY}; mkdir {REPOSITORY}; cd {REPOSITORY}; mkdir -p .flat/ab .flat/cd registry.example.org/library
         cp -a {TINY} .flat/ab/{id}; cp -a {TINY} .flat/cd/{other}; echo 'The other one.' > .flat/cd/{other}/usr/share/doc/tiny/README
         ln -s ../../.flat/ab/{id} {NAME}; mkdir -p .metadata/{NAME}
         echo '{{\"config\":{{\"digest\":\"sha256:{id}\",\"size\":1}},\"layers\":[{{\"digest\":\"a\",\"size\":1}}]}}' \
            > .metadata/{NAME}/manifest.json
         chown u1 . registry.example.org/library"
    );
    with_trees(cluster, || {
        cluster.shell("ctl", &make)?;
        let result = body();
        cluster.shell("ctl", &format!("rm -r {REPOSITORY}"))?;
        result
    })
}

fn settings_are_those_of_a_repository(cluster: &Cluster) -> anyhow::Result<()> {
    let [id, _] = ids();
    let path = format!("{REPOSITORY}/{NAME}");
    let show = ["--parallax-entrypoint", "sh", "-c", "echo \"$GREETING $FROM\""];
    with_repository(cluster, || {
        let bare = run(cluster, "u1", &path, &show)?.success()?;
        ensure!(bare.stdout == " \n", "{bare:?}");
        // Apptainer's script has the variables, where there is no more.
        let apptainer = format!(
            "cd {REPOSITORY}/.flat/ab/{id}; mkdir -p .singularity.d/env
             echo 'export GREETING=\"${{GREETING:-\"from a script\"}}\"' > .singularity.d/env/10-docker2singularity.sh"
        );
        cluster.shell("ctl", &apptainer)?;
        let script = run(cluster, "u1", &path, &show)?.success()?;
        ensure!(script.stdout == "from a script \n", "{script:?}");
        let settings = format!(
            "cd {REPOSITORY}; mkdir -p podmanStore/overlay-images/{id}
             echo '{{\"config\":{{\"Env\":[\"GREETING=hello\"],\"Entrypoint\":[\"/bin/sh\",\"-c\",\"FROM=entry; export FROM; \
             exec \\\"$@\\\"\",\"sh\"]}}}}' > podmanStore/overlay-images/{id}/=$(printf sha256:{id} | base64 -w0)"
        );
        cluster.shell("ctl", &settings)?;
        let all = run(cluster, "u1", &path, &show)?.success()?;
        ensure!(all.stdout == "hello entry\n", "{all:?}");
        // A manifest that is there and cannot be used is no silent default.
        cluster.shell("ctl", &format!("echo '{{}}' > {REPOSITORY}/.metadata/{NAME}/manifest.json"))?;
        refused(&run(cluster, "u1", &path, &["true"])?, "manifest.json is malformed")
    })
}
