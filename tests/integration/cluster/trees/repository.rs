//! Repositories of unpacked images in DUCC's layout: their images by path and by name.

use anyhow::ensure;
use integration_tests::cluster::Cluster;
use integration_tests::held::HeldStep;
use serde_json::Value;

use super::{TINY, TREES, fingerprint, refused, run, with_trees};
use crate::cluster::backend::{CONFIG, STORE, with_config};
use crate::cluster::with_file;

tests! { cluster:
    settings_are_those_of_a_repository,
    images_are_found_by_their_names,
    a_job_keeps_the_image_that_its_name_meant,
    a_repository_that_is_not_there_is_no_answer,
}

/// The repository, on all nodes. It belongs to u1, as DUCC's would to its account.
pub(super) const REPOSITORY: &str = "/shared/repository";
/// The public name of its image.
pub(super) const NAME: &str = "registry.example.org/library/unpacked:1";

/// The id of the image in the repository, and of another one.
pub(super) fn ids() -> [String; 2] {
    ["ab", "cd"].map(|part| part.repeat(32))
}

/// Runs `body` with a repository that has one image with a public name and one without.
pub(super) fn with_repository(cluster: &Cluster, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
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

/// Gives the image in the repository a configuration, and thus another id, which is returned.
pub(super) fn configure(cluster: &Cluster, configuration: &str) -> anyhow::Result<String> {
    let [id, _] = ids();
    let script = format!(
        "cd {REPOSITORY}; printf %s '{configuration}' >text; id=$(sha256sum <text | cut -c1-64); flat=.flat/$(echo $id | cut -c1-2)
         store=podmanStore/overlay-images/$id; mkdir -p $flat $store; mv text $store/=$(printf sha256:$id | base64 -w0)
         mv .flat/ab/{id} $flat/$id; ln -sfn ../../$flat/$id {NAME}; sed -i s/{id}/$id/ .metadata/{NAME}/manifest.json; echo $id"
    );
    Ok(cluster.shell("ctl", &script)?.trim().to_owned())
}

/// Runs `body` with a repository that ctl and n1 are configured to use.
pub(super) fn with_names(cluster: &Cluster, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let text = format!("{STORE}[trees]\npaths = [\"{REPOSITORY}\"]\n");
    with_repository(cluster, || {
        with_file(cluster, "ctl", CONFIG, Some(&text), || with_config(cluster, "n1", &text, body))
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
        // Something else in the place of the configuration is none.
        let other = format!(
            "cd {REPOSITORY}; mkdir -p podmanStore/overlay-images/{id}
             echo '{{\"config\":{{\"Env\":[\"GREETING=other\"]}}}}' > podmanStore/overlay-images/{id}/=$(printf sha256:{id} | base64 -w0)"
        );
        cluster.shell("ctl", &other)?;
        let script = run(cluster, "u1", &path, &show)?.success()?;
        ensure!(script.stdout == "from a script \n", "{script:?}");
        let entrypoint = r#"["/bin/sh","-c","FROM=entry; export FROM; exec \"$@\"","sh"]"#;
        configure(cluster, &format!(r#"{{"config":{{"Env":["GREETING=hello"],"Entrypoint":{entrypoint}}}}}"#))?;
        let all = run(cluster, "u1", &path, &show)?.success()?;
        ensure!(all.stdout == "hello entry\n", "{all:?}");
        // A manifest that is there and cannot be used is no silent default.
        cluster.shell("ctl", &format!("echo '{{}}' > {REPOSITORY}/.metadata/{NAME}/manifest.json"))?;
        refused(&run(cluster, "u1", &path, &["true"])?, "manifest.json is malformed")
    })
}

fn images_are_found_by_their_names(cluster: &Cluster) -> anyhow::Result<()> {
    let [id, other] = ids();
    with_names(cluster, || {
        // Docker Hub has another name in DUCC's lists.
        let hub = format!(
            "cd {REPOSITORY}; mkdir -p registry.hub.docker.com/library; ln -s ../../.flat/cd/{other} registry.hub.docker.com/library/hubbed:1"
        );
        cluster.shell("ctl", &hub)?;
        let before = fingerprint(cluster, REPOSITORY)?;
        for (image, readme) in [
            (NAME, "A few programs of Debian."),
            (id.as_str(), "A few programs of Debian."),
            ("hubbed:1", "The other one."),
            (other.as_str(), "The other one."),
        ] {
            let option = format!("--parallax-image={image}");
            let script = "echo $(cat /usr/share/doc/tiny/README) $PARALLAX_IMAGE_ID";
            let step = HeldStep::start(cluster, "u1", &["-w", "n1", &option], 1, script)?;
            let expected = if readme.starts_with('A') { &id } else { &other };
            ensure!(step.lines == [format!("{readme} {expected}")], "{image}: {:?}", step.lines);
            let status = cluster.agent_status("n1")?;
            let reason = status.steps.first().and_then(|step| step.source.clone()).map(|source| source.reason);
            ensure!(reason.is_some_and(|reason| reason.contains(&format!("{REPOSITORY}/.flat/"))), "{status:?}");
            step.finish()?;
        }
        let listed = cluster.run("ctl", "u1", &["parallax", "list", "--trees"])?.success()?.stdout;
        ensure!(listed.lines().any(|line| line.starts_with(NAME) && line.ends_with(REPOSITORY)), "{listed}");
        let json = cluster.run("ctl", "u1", &["parallax", "list", "--trees", "--json"])?.success()?.stdout;
        let json: Value = serde_json::from_str(&json)?;
        ensure!(json[0]["name"] == NAME && json[0]["id"] == id.as_str() && json[0]["layers"] == 1, "{json}");
        // DUCC writes no manifest of an image that it makes for Apptainer alone.
        ensure!(json[1]["name"] == "registry.hub.docker.com/library/hubbed:1" && json[1]["layers"].is_null(), "{json}");
        let shown = cluster.run("ctl", "u1", &["parallax", "inspect", NAME])?.success()?.stdout;
        ensure!(shown.contains(&id) && shown.contains(&format!("{REPOSITORY}/.flat/")), "{shown}");
        let doctor = cluster.run("n1", "root", &["parallax", "doctor"])?.stdout;
        ensure!(doctor.contains(&format!("{REPOSITORY} has images; files of accounts")), "{doctor}");
        let unknown = run(cluster, "u1", "registry.example.org/library/unknown:1", &["true"])?;
        ensure!(unknown.code == 1 && unknown.stderr.contains(&format!("(/shared/store, {REPOSITORY})")), "{unknown:?}");
        for (slip, meant) in [("registry.example.org/library/unpackd:1", NAME), ("hubed:1", "hubbed:1")] {
            let done = run(cluster, "u1", slip, &["true"])?;
            ensure!(done.code == 1 && done.stderr.contains(&format!("did you mean \"{meant}\"?")), "{done:?}");
        }
        ensure!(fingerprint(cluster, REPOSITORY)? == before, "the repository was changed");
        Ok(())
    })
}

fn a_job_keeps_the_image_that_its_name_meant(cluster: &Cluster) -> anyhow::Result<()> {
    let [_, other] = ids();
    with_names(cluster, || {
        let read = "srun cat /usr/share/doc/tiny/README";
        let switch = format!("cd {REPOSITORY}; ln -s ../../.flat/cd/{other} {NAME}.next; mv -T {NAME}.next {NAME}");
        let script = format!("{read}; ({switch}); {read}");
        let image = format!("--parallax-image={NAME}");
        let done = cluster.run("ctl", "u1", &["salloc", "-Q", "-w", "n1", &image, "sh", "-c", &script])?.success()?;
        ensure!(done.stdout.lines().eq(["A few programs of Debian."; 2]), "{done:?}");
        let later = run(cluster, "u1", NAME, &["cat", "/usr/share/doc/tiny/README"])?.success()?;
        ensure!(later.stdout == "The other one.\n", "{later:?}");
        Ok(())
    })
}

fn a_repository_that_is_not_there_is_no_answer(cluster: &Cluster) -> anyhow::Result<()> {
    let text = format!("{STORE}[trees]\npaths = [\"/srv/missing\", \"{TREES}\"]\n");
    let body = || {
        refused(
            &run(cluster, "u1", "debian:none", &["true"])?,
            "/srv/missing cannot be read: No such file or directory",
        )?;
        run(cluster, "u1", "debian", &["true"])?.success().map(drop)
    };
    with_file(cluster, "ctl", CONFIG, Some(&text), || with_config(cluster, "n1", &text, body))
}
