//! Images into the store, from every kind of source, and Podman on the store itself.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, Done, repository};
use integration_tests::images;

tests! { cluster:
    the_same_image_again_does_nothing,
    layers_are_shared,
    archives_podmans_storage_and_a_registry,
    a_users_own_storage,
    an_image_with_a_layer_more_than_once,
    a_name_that_moves,
    podman_lists_the_store,
    bad_sources_leave_the_store_as_it_was,
}

fn parallax(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<Done> {
    let mut line = vec!["parallax"];
    line.extend(arguments);
    cluster.run("ctl", "root", &line)
}

/// Everything in the store, with sizes and times.
fn contents(cluster: &Cluster) -> anyhow::Result<String> {
    cluster.shell("ctl", "cd /shared/store && find . -printf '%p %y %s %T@ %l\\n' | sort")
}

fn the_same_image_again_does_nothing(cluster: &Cluster) -> anyhow::Result<()> {
    let before = contents(cluster)?;
    let done = images::migrate(cluster, "python")?;
    ensure!(done.stdout.contains("already") || done.stderr.contains("already"), "{done:?}");
    ensure!(contents(cluster)? == before, "the store has changed");
    Ok(())
}

fn layers_are_shared(cluster: &Cluster) -> anyhow::Result<()> {
    let listed = parallax(cluster, &["list", "--json"])?.success()?;
    let list: serde_json::Value = serde_json::from_str(&listed.stdout)?;
    let layers: u64 = list.as_array().into_iter().flatten().filter_map(|image| image["layers"].as_u64()).sum();
    let files = cluster.shell("ctl", "ls /shared/store/parallax/layers/*.squash | wc -l")?;
    let files: u64 = files.trim().parse()?;
    ensure!(files > 0 && files < layers, "{files} files for {layers} layers: {}", listed.stdout);
    Ok(())
}

fn archives_podmans_storage_and_a_registry(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "
        cd /tmp
        rm -rf sources && mkdir sources && cd sources
        skopeo copy --quiet oci:/images/static oci-archive:oci.tar:static
        skopeo copy --quiet oci:/images/static docker-archive:docker.tar:static:1
        skopeo copy --quiet oci:/images/static dir:dir
        skopeo copy --quiet oci:/images/static containers-storage:localhost/stored:1
        cat > registry.yml <<END
version: 0.1
storage: { filesystem: { rootdirectory: $PWD/registry } }
http: { addr: 127.0.0.1:5000 }
END
        exec 3< <(exec docker-registry serve registry.yml 2>&1)
        registry=$!
        trap 'kill $registry; skopeo delete containers-storage:localhost/stored:1; rm -rf /tmp/sources' EXIT
        sed '/listening on/q' <&3 | grep 'listening on'
        skopeo copy --quiet --dest-tls-verify=false oci:/images/static docker://127.0.0.1:5000/some/thing:2
        parallax migrate oci-archive:oci.tar --name from-oci-archive
        parallax migrate docker-archive:docker.tar --name from-docker-archive
        parallax migrate dir:dir --name from-dir
        parallax migrate containers-storage:localhost/stored:1
        parallax migrate --tls-verify=false docker://127.0.0.1:5000/some/thing:2
    ";
    cluster.run("ctl", "root", &["bash", "-euc", script])?.success()?;
    let images =
        ["from-oci-archive", "from-docker-archive", "from-dir", "localhost/stored:1", "127.0.0.1:5000/some/thing:2"];
    for image in images {
        let done = cluster.srun("u1", &[&format!("--parallax-image={image}"), "hello"])?.success().context(image)?;
        ensure!(done.stdout.contains("hello"), "{image}: {done:?}");
    }
    Ok(())
}

/// A user's own storage into a store of their own, as the user; and into the shared one, as the administrator.
fn a_users_own_storage(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "skopeo copy --quiet oci:/images/python containers-storage:localhost/mine:1; \
                  mkdir store; parallax --store $HOME/store migrate containers-storage:localhost/mine:1; \
                  parallax --store $HOME/store list; rm -rf store";
    let done = cluster.run("ctl", "u1", &["sh", "-euc", script])?.success()?;
    ensure!(done.stdout.contains("localhost/mine:1"), "{done:?}");
    let storage = "containers-storage:[overlay@/home/u1/.local/share/containers/storage]localhost/mine:1";
    parallax(cluster, &["migrate", storage])?.success()?;
    cluster.srun("u1", &["--parallax-image=mine:1", "tool"])?.success()?;
    // Root's skopeo keeps the storage mounted.
    cluster.shell("ctl", "umount /home/u1/.local/share/containers/storage/overlay || true")?;
    let clear = "podman unshare rm -rf .local; podman system migrate; rm -rf .config .local";
    cluster.run("ctl", "u1", &["sh", "-c", clear])?.success().map(drop)
}

/// Builders make the same empty layer again and again; here one with files comes twice as well.
fn an_image_with_a_layer_more_than_once(cluster: &Cluster) -> anyhow::Result<()> {
    let layout = cluster.shared().join("again");
    let made = Command::new("python3")
        .arg(repository().join("tests/integration/repeat_layers.py"))
        .args([images::layout("debian"), layout.clone()])
        .output()?;
    Done::from(made).success()?;
    parallax(cluster, &["migrate", "oci:/shared/again", "--name", "again"])?.success()?;
    fs::remove_dir_all(layout)?;
    let done = cluster.srun("u1", &["--parallax-image=again", "cat", "/order", "/both"])?.success()?;
    ensure!(done.stdout == "first1", "{done:?}");
    let podman = "--parallax-mode=podman";
    let line = ["--parallax-image=again", podman, "podman", "run", "--rm", "again", "cat", "/order", "/both"];
    let done = cluster.srun("u1", &line)?.success()?;
    ensure!(done.stdout == "first1", "{done:?}");
    Ok(())
}

/// A step gets the image that the name means when it is submitted.
fn a_name_that_moves(cluster: &Cluster) -> anyhow::Result<()> {
    let is_python =
        || cluster.srun("u1", &["--parallax-image=moving:1", "sh", "-c", "test -e /opt/tool && echo python"]);
    parallax(cluster, &["migrate", "oci:/images/debian", "--name", "moving:1"])?.success()?;
    ensure!(!is_python()?.stdout.contains("python"), "the wrong image");
    parallax(cluster, &["migrate", "oci:/images/python", "--name", "moving:1"])?.success()?;
    ensure!(is_python()?.success()?.stdout.contains("python"), "the name has not moved");
    cluster.srun("u1", &["--parallax-image=debian", "true"])?.success().map(drop)
}

fn podman_lists_the_store(cluster: &Cluster) -> anyhow::Result<()> {
    let line = "podman --root /tmp/own --runroot /tmp/own-run --storage-opt additionalimagestore=/shared/store";
    let script = format!(
        "{line} images --format '{{{{.Repository}}}}:{{{{.Tag}}}} {{{{.Size}}}} {{{{.ReadOnly}}}}'; \
         {line} image inspect python --format '{{{{.User}}}} {{{{len .RootFS.Layers}}}}'; podman unshare rm -rf /tmp/own /tmp/own-run"
    );
    let done = cluster.run("n2", "u1", &["sh", "-euc", &script])?.success()?;
    for expected in ["localhost/python:latest 134 MB true", "localhost/static:latest", "app 5"] {
        ensure!(done.stdout.contains(expected), "no {expected:?}: {done:?}");
    }
    // Podman's pause process is this test's, outside of any step.
    cluster.run("n2", "u1", &["podman", "system", "migrate"])?.success()?;
    cluster.shell("n2", "rm -rf /tmp/*1001* /home/u1/.local/share/containers /run/user/1001").map(drop)
}

fn bad_sources_leave_the_store_as_it_was(cluster: &Cluster) -> anyhow::Result<()> {
    let before = contents(cluster)?;
    let cases: [(&[&str], &str); 5] = [
        (&["migrate", "oci:/nonexistent"], "/nonexistent"),
        (&["migrate", "oci:/images/static", "--name", "not a name"], "not a name"),
        (&["migrate", "docker://127.0.0.1:1/x:1"], "127.0.0.1:1/x:1"),
        (&["migrate", "nonsense"], "nonsense"),
        (&["--store", "/proc/nowhere", "migrate", "oci:/images/static"], "/proc/nowhere"),
    ];
    for (arguments, part) in cases {
        let done = parallax(cluster, arguments)?;
        ensure!(done.code != 0 && done.stderr.contains(part), "{arguments:?}: {done:?}");
    }
    // A layer whose bytes are not those that the manifest names.
    let script = "rm -rf /tmp/bad /tmp/new && mkdir /tmp/new && cp -r /images/static /tmp/bad && cd /tmp/bad/blobs/sha256 && \
                  big=$(ls -S | head -1) && printf x | dd of=$big bs=1 seek=2000 conv=notrunc status=none; \
                  parallax --store /tmp/new migrate oci:/tmp/bad --name bad:1; code=$?; find /tmp/new -type f -size +100c; rm -rf /tmp/bad /tmp/new; exit $code";
    let done = cluster.run("ctl", "root", &["sh", "-c", script])?;
    ensure!(done.code == 1 && done.stdout.is_empty(), "{done:?}");
    let after = contents(cluster)?;
    let changed: Vec<&str> = after.lines().filter(|line| !before.contains(line) && !line.contains(" d ")).collect();
    ensure!(changed.is_empty(), "the store has changed: {changed:#?}");
    ensure!(
        fs::read_dir(cluster.shared().join("store/parallax/tmp")).map_or(0, Iterator::count) == 0,
        "temporary files are left"
    );
    Ok(())
}
