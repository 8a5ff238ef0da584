//! `parallax import --unpacked`: a store beside a repository, from which Podman runs its images without an agent and without a copy.

use std::fs;

use anyhow::ensure;
use integration_tests::cluster::{Cluster, Done};
use serde_json::Value;

use super::repository::{NAME, REPOSITORY, ids, with_repository};
use super::{fingerprint, refused, run};
use crate::cluster::backend::{CONFIG, with_config};
use crate::cluster::mount_program::script_without_agent;
use crate::cluster::with_file;

tests! { cluster:
    podman_without_an_agent_runs_an_imported_image,
    a_step_has_an_imported_image_by_its_name,
    commands_know_an_imported_image,
    a_defect_is_refused_or_said,
}

/// The store beside the repository.
pub(super) const IMPORTED: &str = "/shared/imported";
/// What the image says.
const README: &str = "A few programs of Debian.";

/// Runs `parallax` on the store.
pub(super) fn parallax(cluster: &Cluster, user: &str, arguments: &[&str]) -> anyhow::Result<Done> {
    cluster.run("ctl", user, &[&["parallax", "--store", IMPORTED], arguments].concat())
}

fn import(cluster: &Cluster, images: &[&str]) -> anyhow::Result<Done> {
    parallax(cluster, "root", &[&["import", "--unpacked", REPOSITORY], images].concat())
}

/// Runs `body` with a store into which the repository's image was imported.
fn with_imported(cluster: &Cluster, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let [id, _] = ids();
    with_repository(cluster, || {
        let variables = format!(
            "cd {REPOSITORY}/.flat/ab/{id}; mkdir -p .singularity.d/env
             echo 'export GREETING=\"hello\"' > .singularity.d/env/10-docker2singularity.sh"
        );
        cluster.shell("ctl", &variables)?;
        let imported = || {
            let done = import(cluster, &[])?.success()?;
            ensure!(done.stderr.contains(&format!("{NAME}: imported (abababababab)")), "{done:?}");
            body()
        };
        let result = imported();
        fs::remove_dir_all(cluster.shared().join("imported"))?;
        result
    })
}

/// Runs `body` while the images are not where the store says.
fn unmounted<T>(cluster: &Cluster, body: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    cluster.shell("ctl", &format!("mv {REPOSITORY}/.flat {REPOSITORY}/.gone"))?;
    let result = body();
    cluster.shell("ctl", &format!("mv {REPOSITORY}/.gone {REPOSITORY}/.flat"))?;
    result
}

fn podman_without_an_agent_runs_an_imported_image(cluster: &Cluster) -> anyhow::Result<()> {
    with_imported(cluster, || {
        let before = (fingerprint(cluster, REPOSITORY)?, fingerprint(cluster, IMPORTED)?);
        let look = "echo $GREETING; cat /usr/share/doc/tiny/README; touch /etc/new && echo new";
        let script = format!(
            "podman images --format '{{{{.Repository}}}}:{{{{.Tag}}}} {{{{.ReadOnly}}}}'
             run {NAME} sh -c '{look}'
             run --userns=keep-id {NAME} id -u
             podman run -d --network=host --name kept {NAME} sh -c 'echo kept > /etc/kept'; podman wait kept
             podman commit -q kept localhost/made >/dev/null; run localhost/made cat /etc/kept
             inside du -sk $XDG_RUNTIME_DIR/graph | cut -f1"
        );
        let done = script_without_agent(cluster, IMPORTED, &script)?.success()?;
        let lines: Vec<&str> = done.stdout.lines().filter(|line| line.len() != 64).collect();
        let name = format!("{NAME} true");
        let expected = [name.as_str(), "hello", README, "new", "1001", "0", "kept"];
        ensure!(lines.get(..expected.len()) == Some(expected.as_slice()), "{done:?}");
        let kept: u64 = lines.last().copied().unwrap_or_default().parse()?;
        ensure!(kept < 1024, "Podman copied {kept} KiB of the image");
        ensure!((fingerprint(cluster, REPOSITORY)?, fingerprint(cluster, IMPORTED)?) == before, "files were changed");

        // Podman looks at the directory itself, before the mount program could.
        let run_it = format!("run {NAME} true");
        let gone = unmounted(cluster, || script_without_agent(cluster, IMPORTED, &run_it))?;
        ensure!(gone.code == 125 && gone.stderr.contains("/diff: no such file or directory"), "{gone:?}");
        Ok(())
    })
}

fn a_step_has_an_imported_image_by_its_name(cluster: &Cluster) -> anyhow::Result<()> {
    let text = format!("stores = [\"{IMPORTED}\"]\n");
    let look = "cat /usr/share/doc/tiny/README; echo $GREETING";
    let body = || {
        let [id, _] = ids();
        for image in [NAME, &id, &id[..12]] {
            let done = run(cluster, "u1", image, &["sh", "-c", look])?.success()?;
            ensure!(done.stdout.lines().eq([README, "hello"]), "{image}: {done:?}");
        }
        let script = format!("podman run --rm {NAME} sh -c '{look}'");
        let done = run(cluster, "u1", NAME, &["--parallax-mode=podman", "bash", "-c", &script])?.success()?;
        ensure!(done.stdout.lines().eq([README, "hello"]), "{done:?}");
        let gone = unmounted(cluster, || run(cluster, "u1", NAME, &["true"]))?;
        refused(
            &gone,
            &format!("cannot use {REPOSITORY}/.flat/ab/{id} on the node n1 as an image: there is no such directory"),
        )
    };
    with_imported(cluster, || {
        with_file(cluster, "ctl", CONFIG, Some(&text), || with_config(cluster, "n1", &text, body))
    })
}

fn commands_know_an_imported_image(cluster: &Cluster) -> anyhow::Result<()> {
    let [id, _] = ids();
    let directory = format!("{REPOSITORY}/.flat/ab/{id}");
    with_imported(cluster, || {
        let before = (fingerprint(cluster, REPOSITORY)?, fingerprint(cluster, IMPORTED)?);
        let again = import(cluster, &[NAME])?.success()?;
        ensure!(again.stderr.contains("in the store already, nothing to do"), "{again:?}");
        let size = cluster.shell("ctl", &format!("du -s --apparent-size --block-size=1 {IMPORTED} | cut -f1"))?;
        ensure!(size.trim().parse::<u64>()? < 100_000, "the store has {size} bytes");

        let listed = parallax(cluster, "u1", &["list", "--json"])?.success()?.stdout;
        let listed: Value = serde_json::from_str(&listed)?;
        ensure!(listed[0]["unpacked"] == directory.as_str() && listed[0]["stored"] == 0, "{listed}");
        let table = parallax(cluster, "u1", &["list"])?.success()?.stdout;
        ensure!(table.contains("UNPACKED IN") && table.contains(&directory), "{table}");
        let shown = parallax(cluster, "u1", &["inspect", NAME])?.success()?.stdout;
        ensure!(shown.contains(&directory) && shown.contains("GREETING=hello"), "{shown}");
        parallax(cluster, "u1", &["verify"])?.success()?;
        let doctor = |expected: &str| {
            let config = format!("stores = [\"{IMPORTED}\"]\n");
            with_file(cluster, "ctl", CONFIG, Some(&config), || {
                let said = cluster.run("ctl", "root", &["parallax", "doctor"])?.stdout;
                ensure!(said.contains(expected), "{expected}: {said}");
                Ok(())
            })
        };
        doctor("has 1 image in directories elsewhere")?;
        parallax(cluster, "root", &["gc"])?.success()?;
        ensure!((fingerprint(cluster, REPOSITORY)?, fingerprint(cluster, IMPORTED)?) == before, "files were changed");
        unmounted(cluster, || {
            let problem = parallax(cluster, "u1", &["verify", NAME])?;
            ensure!(problem.code == 1 && problem.stdout.contains(&format!("{directory} is not there")), "{problem:?}");
            doctor("1 of these directories cannot be found")
        })?;
        let before = fingerprint(cluster, REPOSITORY)?;
        let adopted = parallax(cluster, "root", &["migrate", "--adopt"])?.success()?;
        ensure!(adopted.stderr.contains("nothing to do"), "{adopted:?}");
        for command in [&["chunk", NAME][..], &["tag", NAME, "other:1"]] {
            let done = parallax(cluster, "root", command)?;
            ensure!(done.code == 1 && done.stderr.contains(&format!("lies unpacked in {directory}")), "{done:?}");
        }

        parallax(cluster, "root", &["rm", NAME])?.success()?;
        let left =
            cluster.shell("ctl", &format!("ls {IMPORTED}/overlay {IMPORTED}/overlay/l {IMPORTED}/overlay-images"))?;
        ensure!(!left.contains("abab") && !left.contains("diff"), "{left}");
        ensure!(parallax(cluster, "u1", &["list", "--json"])?.success()?.stdout.trim() == "[]", "still listed");
        ensure!(fingerprint(cluster, REPOSITORY)? == before, "the repository was changed");
        Ok(())
    })
}

fn a_defect_is_refused_or_said(cluster: &Cluster) -> anyhow::Result<()> {
    let [id, other] = ids();
    let page = format!("podmanStore/overlay-images/{id}/=$(printf sha256:{id} | base64 -w0)");
    with_imported(cluster, || {
        let before = fingerprint(cluster, IMPORTED)?;
        let broken = format!(
            "cd {REPOSITORY}; mkdir -p $(dirname {page}) podmanStore/overlay-layers; echo '<html>' > {page}
             ln -s ../../.flat/ef/gone registry.example.org/library/gone:1
             mkdir -p .metadata/registry.example.org/library/gone:1
             sed s/{id}/{other}/ .metadata/{NAME}/manifest.json > .metadata/registry.example.org/library/gone:1/manifest.json
             mv .flat/cd .flat/taken"
        );
        cluster.shell("ctl", &broken)?;
        let done = import(cluster, &[])?;
        let mended = format!("cd {REPOSITORY}; rm -r podmanStore; mv .flat/taken .flat/cd");
        cluster.shell("ctl", &mended)?;
        ensure!(done.code == 1, "{done:?}");
        for reason in [
            "is not the image's configuration, perhaps the error of a registry; have DUCC publish the image again",
            &format!(
                "{other} nor in layers: it was not unpacked, or a garbage collection took it; have it published again"
            ),
        ] {
            ensure!(done.stderr.contains(reason), "{reason}: {done:?}");
        }
        ensure!(fingerprint(cluster, IMPORTED)? == before, "a refused image left something in the store");

        // What is no obstacle is said: the manifest is that of another image, and what the name leads to is imported.
        cluster.shell("ctl", &format!("cd {REPOSITORY}; ln -sfn ../../.flat/cd/{other} {NAME}"))?;
        let moved = import(cluster, &[NAME])?.success()?;
        ensure!(moved.stderr.contains(&format!("{NAME}: imported (cdcdcdcdcdcd)")), "{moved:?}");
        ensure!(moved.stderr.contains("is that of the image abababababab"), "{moved:?}");
        ensure!(moved.stderr.contains("variables, entry point and working directory are unknown"), "{moved:?}");
        Ok(())
    })
}
