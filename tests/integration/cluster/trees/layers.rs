//! Images of which a repository has only the unpacked layers, as DUCC or other tools leave them: with files that stand for deleted ones.

use std::fs;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, Done};
use integration_tests::held::HeldStep;

use super::import::{IMPORTED, parallax};
use super::repository::{NAME, REPOSITORY};
use super::{TINY, fingerprint, refused, run, with_trees};
use crate::cluster::backend::{CONFIG, with_config};
use crate::cluster::mount_program::script_without_agent;
use crate::cluster::named::job_with;
use crate::cluster::with_file;

tests! { cluster:
    an_image_in_layers_shows_no_deleted_file,
    podman_has_an_image_in_layers_with_and_without_an_agent,
    layers_beside_an_oci_layout_are_images,
    without_an_import_it_is_refused_with_the_command,
    what_a_user_may_not_read_of_it_is_closed,
    its_steps_share_a_container_and_outlive_an_agent,
}

/// Makes the layers of an image in DUCC's layout: a root file system, one that deletes, and one that puts some back.
const LAYERS: &str = r#"
    cd $1; base=$(printf 01%.0s $(seq 32)) middle=$(printf 02%.0s $(seq 32)) top=$(printf 03%.0s $(seq 32))
    for layer in $base $middle $top; do mkdir -p .layers/$(echo $layer | cut -c1-2)/$layer; done
    cp -a $2 .layers/01/$base/layerfs; cd .layers/01/$base/layerfs
    mkdir -p opt/all opt/some var/again; echo old > opt/all/old; echo one > opt/some/one; echo two > opt/some/two; echo base > var/again/file
    echo secret > etc/secret; chmod 0600 etc/secret; chown 33:33 opt/some/two
    mkdir -p $1/.layers/02/$middle/layerfs; cd $1/.layers/02/$middle/layerfs
    mkdir -p opt/all opt/some var; : > opt/all/.wh..wh..opq; echo new > opt/all/new; : > opt/some/.wh.one; : > var/.wh.again
    mkdir -p $1/.layers/03/$top/layerfs/var/again; cd $1/.layers/03/$top/layerfs; echo top > var/again/top
    cd $1; printf %s '{"config":{"Env":["GREETING=hello"]}}' > text; id=$(sha256sum < text | cut -c1-64)
    store=podmanStore/overlay-images/$id; mkdir -p $store .metadata/$3; mv text $store/=$(printf sha256:$id | base64 -w0)
    blob() { printf '{"digest":"sha256:%s","size":1}' $1; }
    printf '{"config":%s,"layers":[%s,%s,%s]}' "$(blob $id)" "$(blob $base)" "$(blob $middle)" "$(blob $top)" > .metadata/$3/manifest.json
"#;
/// What shows all of it, and then changes it.
const LOOK: &str = "cd /; for d in opt/all opt/some var/again; do echo $d: $(ls -A $d); done; cat usr/share/doc/tiny/README etc/secret
    stat -c '%u:%g %a' etc/secret opt/some/two; echo more >> etc/secret && cat etc/secret; rm -r opt/some && echo $GREETING";
const SEEN: [&str; 10] = [
    "opt/all: new",
    "opt/some: two",
    "var/again: top",
    "A few programs of Debian.",
    "secret",
    "0:0 600",
    "33:33 644",
    "secret",
    "more",
    "hello",
];

fn check_seen(done: &Done) -> anyhow::Result<()> {
    ensure!(done.stdout.lines().eq(SEEN), "{done:?}");
    Ok(())
}

/// Runs `body` with a repository of one image in layers, which was imported into a store that n1 is configured to use.
fn with_layers(cluster: &Cluster, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    with_trees(cluster, || {
        fs::create_dir(cluster.shared().join("repository"))?;
        cluster.run("ctl", "root", &["bash", "-euc", LAYERS, "layers", REPOSITORY, TINY, NAME])?.success()?;
        let done = imported(cluster, body);
        cluster.shell("ctl", &format!("rm -rf {REPOSITORY} {IMPORTED}"))?;
        done
    })
}

/// Imports the repository's images and runs `body`.
fn imported(cluster: &Cluster, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    parallax(cluster, "root", &["import", "--unpacked", REPOSITORY])?.success()?;
    let text = format!("stores = [\"{IMPORTED}\"]\n[trees]\npaths = [\"{REPOSITORY}\"]\n");
    configured(cluster, &text, body)
}

/// Runs `body` while ctl and n1 have this configuration.
fn configured(cluster: &Cluster, text: &str, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    with_file(cluster, "ctl", CONFIG, Some(text), || with_config(cluster, "n1", text, body))
}

fn an_image_in_layers_shows_no_deleted_file(cluster: &Cluster) -> anyhow::Result<()> {
    with_layers(cluster, || {
        let before = fingerprint(cluster, REPOSITORY)?;
        let as_root = "--parallax-userns=root";
        check_seen(&run(cluster, "u1", NAME, &[as_root, "sh", "-c", LOOK])?.success()?)?;
        let image = format!("--parallax-image={NAME}");
        let step = HeldStep::start(cluster, "u1", &["-w", "n1", &image], 1, "cat /var/again/top")?;
        let status = cluster.agent_status("n1")?;
        let source = status.steps.first().and_then(|step| step.source.as_ref()).context("no source")?;
        let expected = format!("metadata of layers in {REPOSITORY}");
        ensure!(source.backend == "native" && source.reason.contains(&expected), "{source:?}");
        step.finish()?;
        ensure!(fingerprint(cluster, REPOSITORY)? == before, "the repository was changed");

        // Again is a no-op, the store is sound, and a layer that was collected is named.
        let again = parallax(cluster, "root", &["import", "--unpacked", REPOSITORY])?.success()?;
        ensure!(again.stderr.contains("nothing to do"), "{again:?}");
        parallax(cluster, "root", &["verify"])?.success()?;
        cluster.shell("ctl", &format!("mv {REPOSITORY}/.layers/02 {REPOSITORY}/away"))?;
        let damaged = parallax(cluster, "root", &["verify"])?;
        let gone = run(cluster, "u1", NAME, &["true"])?;
        cluster.shell("ctl", &format!("mv {REPOSITORY}/away {REPOSITORY}/.layers/02"))?;
        ensure!(damaged.code == 1 && format!("{damaged:?}").contains("/.layers/02/"), "{damaged:?}");
        refused(&gone, "which lies in layers, on this node: the user cannot read")
    })
}

fn podman_has_an_image_in_layers_with_and_without_an_agent(cluster: &Cluster) -> anyhow::Result<()> {
    with_layers(cluster, || {
        let script = format!("podman run --rm {NAME} sh -c \"$LOOK\"");
        let look = format!("LOOK={LOOK}");
        let mode = "--parallax-mode=podman";
        check_seen(&run(cluster, "u1", NAME, &[mode, "env", &look, "bash", "-c", &script])?.success()?)?;
        // The user reads the files then: those of root alone stay closed, and owners are the user's.
        let look = "ls -A /opt/all /opt/some /var/again; cat /usr/share/doc/tiny/README; echo $GREETING; rm -r /opt/some && ls /opt";
        let done = script_without_agent(cluster, IMPORTED, &format!("run {NAME} sh -c '{look}'"))?.success()?;
        let expected = [
            "/opt/all:",
            "new",
            "",
            "/opt/some:",
            "two",
            "",
            "/var/again:",
            "top",
            "A few programs of Debian.",
            "hello",
            "all",
        ];
        ensure!(done.stdout.lines().eq(expected), "{done:?}");
        cluster.shell("ctl", &format!("mv {REPOSITORY}/.layers/02 {REPOSITORY}/away"))?;
        let gone = script_without_agent(cluster, IMPORTED, &format!("run {NAME} true"))?;
        cluster.shell("ctl", &format!("mv {REPOSITORY}/away {REPOSITORY}/.layers/02"))?;
        ensure!(gone.code != 0 && gone.stderr.contains("/.layers/02/"), "{gone:?}");
        Ok(())
    })
}

/// Unpacks the layers of an OCI layout beside a copy of its documents.
const UNPACK: &str = r#"
    mkdir -p $2/blobs/sha256 $2/layers/sha256; cp $1/index.json $1/oci-layout $2
    for blob in $1/blobs/sha256/*; do
        name=$(basename $blob)
        if tar -tf $blob >/dev/null 2>&1; then mkdir $2/layers/sha256/$name; tar -xf $blob -C $2/layers/sha256/$name
        else cp $blob $2/blobs/sha256; fi
    done
"#;

fn layers_beside_an_oci_layout_are_images(cluster: &Cluster) -> anyhow::Result<()> {
    with_trees(cluster, || {
        cluster.run("ctl", "root", &["bash", "-euc", UNPACK, "unpack", "/images/tiny", REPOSITORY])?.success()?;
        let listed = parallax(cluster, "root", &["import", "--json", "--unpacked", REPOSITORY])?.success()?;
        let outcomes: serde_json::Value = serde_json::from_str(&listed.stdout)?;
        let name = outcomes[0]["name"].as_str().context("no name")?.to_owned();
        let ran = imported(cluster, || {
            let done = run(cluster, "u1", &name, &["cat", "/usr/share/doc/tiny/README"])?.success()?;
            ensure!(done.stdout == "A few programs of Debian.\n", "{done:?}");
            Ok(())
        });
        cluster.shell("ctl", &format!("rm -rf {REPOSITORY} {IMPORTED}"))?;
        ran
    })
}

/// Where the job is submitted, and on a node that alone has the repository.
fn without_an_import_it_is_refused_with_the_command(cluster: &Cluster) -> anyhow::Result<()> {
    with_layers(cluster, || {
        let only_trees = format!("stores = [\"/shared/store\"]\n[trees]\npaths = [\"{REPOSITORY}\"]\n");
        let command = format!("Ask for it with: parallax import --unpacked {REPOSITORY} {NAME}");
        configured(cluster, &only_trees, || {
            let done = run(cluster, "u1", NAME, &["true"])?;
            ensure!(done.code == 1 && done.stderr.contains(&command), "{done:?}");
            Ok(())
        })?;
        // A store that is not there: the nodes resolve the name.
        let elsewhere = "stores = [\"/shared/store\", \"/shared/missing\"]\n";
        with_file(cluster, "ctl", CONFIG, Some(elsewhere), || {
            with_config(cluster, "n1", &only_trees, || refused(&run(cluster, "u1", NAME, &["true"])?, &command))
        })
    })
}

fn what_a_user_may_not_read_of_it_is_closed(cluster: &Cluster) -> anyhow::Result<()> {
    with_layers(cluster, || {
        cluster.shell("ctl", &format!("chmod 0700 {REPOSITORY}/.layers/01"))?;
        refused(&run(cluster, "u1", NAME, &["true"])?, "the user cannot read /shared/repository/.layers/01/")?;
        cluster.shell("ctl", &format!("chmod 0755 {REPOSITORY}/.layers/01"))?;
        let elsewhere = format!("stores = [\"{IMPORTED}\"]\n");
        configured(cluster, &elsewhere, || {
            refused(&run(cluster, "u1", NAME, &["true"])?, "trees.paths in parallax.toml has no repository with")
        })
    })
}

fn its_steps_share_a_container_and_outlive_an_agent(cluster: &Cluster) -> anyhow::Result<()> {
    with_layers(cluster, || {
        let options = format!("--parallax-image={NAME} --parallax-name=env --parallax-userns=root");
        let script = "srun -n1 sh -c 'rm -r /opt/some; echo more >> /etc/secret'
            srun -n1 --export=NONE sh -c 'cat /etc/secret; ls /opt'";
        let (done, said) = job_with(cluster, &options, script)?;
        done.success()?;
        ensure!(said.lines().eq(["secret", "more", "all"]), "{said}");

        let image = format!("--parallax-image={NAME}");
        let later = "cat /var/again/top; read -r line; cat /usr/share/doc/tiny/README; ls /opt/all";
        let mut step = HeldStep::start(cluster, "u1", &["-w", "n1", &image], 1, later)?;
        cluster.service("n1", "stop", "agent")?;
        cluster.service("n1", "start", "agent")?;
        check_seen(&run(cluster, "u1", NAME, &["--overlap", "--parallax-userns=root", "sh", "-c", LOOK])?.success()?)?;
        step.write_line("go")?;
        let lines = [step.read_line()?, step.read_line()?];
        ensure!(lines == ["A few programs of Debian.", "new"], "{lines:?}");
        step.finish()
    })
}
