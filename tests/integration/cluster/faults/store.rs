//! Faults of the store and of the files in it.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};

use anyhow::ensure;
use integration_tests::clean::note_layers;
use integration_tests::cluster::Cluster;
use integration_tests::held::HeldStep;
use integration_tests::images;

use super::{failed_saying_once, faults, last_layer, said, with_config};

faults! { Cluster:
    gone_at_the_start = "the store gone at a step's start",
    gone_while_a_step_runs = "the store gone while a step runs",
    a_missing_layer = "a layer file missing",
    a_truncated_layer = "a layer file truncated",
    a_layer_that_is_no_squashfs = "a layer file overwritten",
    a_layer_with_corrupt_data = "a layer file with corrupt data",
    a_layer_of_another_owner = "a layer file swapped for another owner's",
    a_layer_that_others_may_write = "a layer file that others may write",
    a_layer_that_is_a_symlink = "a layer file swapped for a symbolic link",
    an_image_removed_while_a_step_uses_it = "an image removed while a step uses it",
    an_image_retagged_while_a_step_uses_it = "a name moved to another image while a step uses it",
}

fn gone_at_the_start(cluster: &Cluster) -> anyhow::Result<String> {
    with_config(cluster, "stores = [\"/shared/gone\"]\n", || {
        let done = cluster.srun("u1", &["-w", "n1", "-n2", "--parallax-image=debian", "true"])?;
        failed_saying_once(&done, &["the store /shared/gone cannot be read", "No such file", "tell the administrator"])
    })
}

fn gone_while_a_step_runs(cluster: &Cluster) -> anyhow::Result<String> {
    let script = "echo started; cat >/dev/null; exec python3 -c 'import decimal, sqlite3; print(7 * 6)'";
    let step = HeldStep::start(cluster, "u1", &["-N2", "-n2", "--parallax-image=python"], 2, script)?;
    let (store, away) = (cluster.shared().join("store"), cluster.shared().join("store-away"));
    fs::rename(&store, &away)?;
    let done = step.end();
    let after = cluster.srun("u1", &["-w", "n1", "--parallax-image=debian", "true"]);
    fs::rename(&away, &store)?;
    let done = done?.success()?;
    ensure!(done.stdout.matches("42").count() == 2, "{done:?}");
    let new = failed_saying_once(&after?, &["/shared/store", "cannot be read"])?;
    Ok(format!("the running step: nothing; a new one: {new}"))
}

/// Runs a step of the image `static`, on n1 and n2, while its layer's file is what `change` makes of it; the file that was
/// there before is at `original`, and all of that is undone afterwards.
fn with_layer(
    cluster: &Cluster,
    parts: &[&str],
    change: impl FnOnce(&Path, &Path) -> std::io::Result<()>,
) -> anyhow::Result<String> {
    let layer = last_layer(cluster, "static")?;
    let original: PathBuf = layer.with_extension("original");
    fs::rename(&layer, &original)?;
    let run = || cluster.srun("u1", &["-N2", "-n4", "-w", "n1,n2", "--parallax-image=static", "hello"]);
    let done = change(&layer, &original).map_err(anyhow::Error::from).and_then(|()| run());
    if layer.symlink_metadata().is_ok() {
        fs::remove_file(&layer)?;
    }
    fs::rename(&original, &layer)?;
    let seen = done.and_then(|done| {
        ensure!(done.code != 0 && !done.stdout.contains("hello"), "it did not fail: {done:?}");
        said(&done, parts)
    });
    // The file that is good again is taken for good.
    run()?.success()?;
    seen
}

fn a_missing_layer(cluster: &Cluster) -> anyhow::Result<String> {
    with_layer(cluster, &["parallax: ", ".squash", "No such file", "tell the administrator"], |_, _| Ok(()))
}

fn a_truncated_layer(cluster: &Cluster) -> anyhow::Result<String> {
    with_layer(cluster, &["parallax: ", ".squash", "size", "tell the administrator"], |layer, original| {
        let bytes = fs::read(original)?;
        fs::write(layer, &bytes[..bytes.len() / 2])
    })
}

fn a_layer_that_is_no_squashfs(cluster: &Cluster) -> anyhow::Result<String> {
    with_layer(cluster, &["parallax: ", ".squash", "SquashFS", "tell the administrator"], |layer, original| {
        fs::write(layer, vec![b'x'; usize::try_from(original.metadata()?.len()).unwrap_or_default()])
    })
}

fn a_layer_with_corrupt_data(cluster: &Cluster) -> anyhow::Result<String> {
    with_layer(cluster, &["parallax: ", "cannot execute \"hello\"", "error"], |layer, original| {
        let mut bytes = fs::read(original)?;
        // The first frame of zstd (RFC 8878, 3.1.1), in which the program begins; what a mount reads is at the end.
        let magic = [0x28, 0xb5, 0x2f, 0xfd];
        let frame = bytes.windows(4).position(|part| part == magic).unwrap_or_default();
        bytes[frame..frame + 4096].fill(0xff);
        fs::write(layer, bytes)
    })
}

fn a_layer_of_another_owner(cluster: &Cluster) -> anyhow::Result<String> {
    with_layer(cluster, &["parallax: ", ".squash", "not trusted", "tell the administrator"], |layer, original| {
        fs::copy(original, layer)?;
        chown(layer, Some(1001), Some(1001))
    })
}

fn a_layer_that_others_may_write(cluster: &Cluster) -> anyhow::Result<String> {
    use std::os::unix::fs::PermissionsExt as _;
    with_layer(cluster, &["parallax: ", ".squash", "not trusted", "may write"], |layer, original| {
        fs::copy(original, layer)?;
        fs::set_permissions(layer, fs::Permissions::from_mode(0o666))
    })
}

fn a_layer_that_is_a_symlink(cluster: &Cluster) -> anyhow::Result<String> {
    with_layer(cluster, &["parallax: ", ".squash", "symbolic link"], |layer, original| symlink(original, layer))
}

fn parallax(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<()> {
    cluster.run("ctl", "root", &[&["parallax"], arguments].concat())?.success().map(drop)
}

fn an_image_removed_while_a_step_uses_it(cluster: &Cluster) -> anyhow::Result<String> {
    let script = "echo started; cat >/dev/null; exec python3 -c 'import decimal, sqlite3; print(7 * 6)'";
    let step = HeldStep::start(cluster, "u1", &["-N2", "-n2", "--parallax-image=python"], 2, script)?;
    note_layers(cluster)?;
    let removed = parallax(cluster, &["rm", "--force", "python"]);
    let new = cluster.srun("u1", &["-w", "n1", "--parallax-image=python", "true"]);
    let done = step.end();
    images::migrate(cluster, "python")?;
    removed?;
    let done = done?.success()?;
    ensure!(done.stdout.matches("42").count() == 2, "{done:?}");
    let new = failed_saying_once(&new?, &["\"python\" is in no store"])?;
    Ok(format!("the running step: nothing; a new one: {new}"))
}

fn an_image_retagged_while_a_step_uses_it(cluster: &Cluster) -> anyhow::Result<String> {
    let image = "--parallax-image=moving:1";
    parallax(cluster, &["tag", "debian", "moving:1"])?;
    let script = "echo started; cat >/dev/null; exec sh -c 'test ! -e /usr/bin/python3'";
    let step = HeldStep::start(cluster, "u1", &["-N2", "-n2", image], 2, script)?;
    parallax(cluster, &["tag", "python", "moving:1"])?;
    let new = cluster.srun("u1", &["-N2", "-n2", image, "test", "-e", "/usr/bin/python3"]);
    let done = step.end();
    parallax(cluster, &["rm", "moving:1"])?;
    done?.success()?;
    new?.success()?;
    Ok("nothing: the running step keeps its image, a new one has the new image".to_owned())
}
