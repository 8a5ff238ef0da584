//! Stores of the three layouts: this project's, the Go tool's and podman-hpc's, and files that are damaged.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, Done};
use serde_json::{Value, json};

use super::{EVERY, PLAIN, Podman};

tests! {
    guests:
        images_of_the_go_tool,
        images_of_podman_hpc,
        images_of_all_kinds_in_one_store;
    cluster:
        a_bad_layer_file_is_told;
}

/// A store that only a test has, with the image of the same id and name that the cluster's store has as `debian`.
struct OwnStore {
    root: PathBuf,
    name: String,
}

impl OwnStore {
    /// Copies the lists; `layers` are `(id, link)`, base first, whose directories are empty.
    fn new(cluster: &Cluster, name: &str, layers: &[(&str, &str)]) -> anyhow::Result<Self> {
        let theirs = cluster.shared().join("store");
        let store = Self { root: cluster.shared().join(name), name: format!("/shared/{name}") };
        for directory in ["overlay/l", "overlay-images", "overlay-layers"] {
            fs::create_dir_all(store.root.join(directory))?;
        }
        for lock in ["overlay-images/images.lock", "overlay-layers/layers.lock"] {
            fs::copy(theirs.join(lock), store.root.join(lock))?;
        }
        let images: Vec<Value> = serde_json::from_slice(&fs::read(theirs.join("overlay-images/images.json"))?)?;
        let is_debian = |image: &&Value| image["names"][0] == "localhost/debian:latest";
        let mut image = images.iter().find(is_debian).context("debian is in no store")?.clone();
        let id = image["id"].as_str().context("no id")?.to_owned();
        let data = Path::new("overlay-images").join(&id);
        fs::create_dir(store.root.join(&data))?;
        for entry in fs::read_dir(theirs.join(&data))? {
            let entry = entry?;
            fs::copy(entry.path(), store.root.join(&data).join(entry.file_name()))?;
        }
        image["layer"] = json!(layers.last().context("no layers")?.0);
        fs::write(store.root.join("overlay-images/images.json"), serde_json::to_vec(&[image])?)?;
        let mut records: Vec<Value> = Vec::new();
        for &(id, link) in layers {
            let mut record = json!({"id": id, "created": "2025-01-01T00:00:00Z", "diff-size": 0,
                "diff-digest": format!("sha256:{id}")});
            if let Some(below) = records.last() {
                record["parent"] = below["id"].clone();
            }
            records.push(record);
            fs::create_dir_all(store.root.join("overlay").join(id).join("diff"))?;
            fs::write(store.root.join("overlay").join(id).join("link"), link)?;
            symlink(format!("../{id}/diff"), store.root.join("overlay/l").join(link))?;
        }
        fs::write(store.root.join("overlay-layers/layers.json"), serde_json::to_vec(&records)?)?;
        Ok(store)
    }

    /// The SquashFS file of debian's one layer.
    fn squashfs(cluster: &Cluster) -> anyhow::Result<PathBuf> {
        let listed = cluster.run("ctl", "root", &["parallax", "list", "--json"])?.success()?.stdout;
        let images: Vec<Value> = serde_json::from_str(&listed)?;
        let debian = images.iter().find(|image| image["names"][0] == "localhost/debian:latest").context("no debian")?;
        let id = debian["id"].as_str().context("no id")?;
        let record = cluster.shared().join(format!("store/parallax/images/{id}.json"));
        let record: Value = serde_json::from_slice(&fs::read(record)?)?;
        let layer = record["layers"][0]["diff_id"].as_str().context("no layer")?;
        Ok(cluster.shared().join(format!("store/parallax/layers/{layer}.squash")))
    }

    /// Makes sure that the image is debian, for every Podman.
    fn check(&self, cluster: &Cluster) -> anyhow::Result<()> {
        EVERY.into_iter().try_for_each(|podman| self.check_with(cluster, podman))
    }

    fn check_with(&self, cluster: &Cluster, podman: Podman) -> anyhow::Result<()> {
        let mut hows = vec!["--userns=host", "--read-only"];
        hows.extend((!podman.is_rootful()).then_some("--userns=keep-id"));
        let text = format!(
            "for how in {}; do run $how debian sh -c 'stat -c %u:%g /etc/shadow; ls /usr/bin | wc -l'; done",
            hows.join(" ")
        );
        let done = podman.script_on(cluster, &self.name, &text)?.success().with_context(|| format!("{podman:?}"))?;
        let lines: Vec<&str> = done.stdout.lines().collect();
        ensure!(lines.len() == 2 * hows.len(), "{podman:?}: {done:?}");
        for pair in lines.chunks(2) {
            ensure!(pair[0] == "0:42" && pair[1].parse::<u32>()? > 100, "{podman:?}: {done:?}");
        }
        Ok(())
    }

    /// A container must not start, for a reason with these words.
    fn refuses(&self, cluster: &Cluster, podman: Podman, words: &str) -> anyhow::Result<()> {
        for how in ["--userns=host", "--userns=keep-id"] {
            if podman.is_rootful() && how == "--userns=keep-id" {
                continue;
            }
            // squashfuse that mounts a damaged file may answer nothing, which is waited for.
            let text = format!("export PARALLAX_MP_START_TIMEOUT=2; run {how} debian true");
            let done = podman.script_on(cluster, &self.name, &text)?;
            ensure!(done.code == 125 || done.code == 126 || done.code == 127, "{how}, not {words}: {done:?}");
            ensure!(done.stderr.matches("parallax-mount-program: ").count() >= 1, "{done:?}");
            ensure!(done.stderr.contains(words), "{podman:?}: {how}, not {words}: {done:?}");
        }
        Ok(())
    }

    fn every_podman_refuses(&self, cluster: &Cluster, words: &str) -> anyhow::Result<()> {
        EVERY.into_iter().try_for_each(|podman| self.refuses(cluster, podman, words))
    }
}

impl Drop for OwnStore {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const BELOW: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";
const LINK: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const LINK_BELOW: &str = "ZYXWVUTSRQPONMLKJIHGFEDCBA";

/// One flattened layer, a marker in its directory, and the file by a symbolic link in `squash`.
fn images_of_the_go_tool(cluster: &Cluster) -> anyhow::Result<()> {
    let store = OwnStore::new(cluster, "go-store", &[(ID, LINK)])?;
    for directory in ["work", "merged", "empty"] {
        fs::create_dir(store.root.join("overlay").join(ID).join(directory))?;
    }
    fs::write(store.root.join("overlay").join(ID).join("diff/.migrationv3-debian-latest"), "0\n")?;
    fs::create_dir(store.root.join("squash"))?;
    let file = store.root.join(format!("squash/{LINK}.squash"));
    fs::copy(OwnStore::squashfs(cluster)?, &file)?;
    symlink(format!("../../squash/{LINK}.squash"), store.root.join(format!("overlay/l/{LINK}.squash")))?;
    store.check(cluster)?;
    fs::remove_file(file)?;
    store.every_podman_refuses(cluster, "is missing: the image is corrupt")
}

/// A chain of layers with no `lower`, and one flattened file, a plain one, beside the top layer's link.
fn images_of_podman_hpc(cluster: &Cluster) -> anyhow::Result<()> {
    let store = OwnStore::new(cluster, "hpc-store", &[(BELOW, LINK_BELOW), (ID, LINK)])?;
    let file = store.root.join(format!("overlay/l/{LINK}.squash"));
    fs::copy(OwnStore::squashfs(cluster)?, &file)?;
    store.check(cluster)?;
    fs::remove_file(file)?;
    store.every_podman_refuses(cluster, "none has a SquashFS file")
}

/// An image of `parallax migrate` whose base is somebody else's: each layer is found where it lies.
fn images_of_all_kinds_in_one_store(cluster: &Cluster) -> anyhow::Result<()> {
    let store = OwnStore::new(cluster, "mixed-store", &[(BELOW, LINK_BELOW), (ID, LINK)])?;
    let lower = format!("l/{LINK_BELOW}");
    fs::write(store.root.join("overlay").join(ID).join("lower"), lower)?;
    // The base as podman-hpc has it, the top as the Go tool does: a file with nothing but a change in it.
    fs::copy(OwnStore::squashfs(cluster)?, store.root.join(format!("overlay/l/{LINK_BELOW}.squash")))?;
    let tree = tempfile::tempdir()?;
    fs::create_dir(tree.path().join("usr"))?;
    fs::write(tree.path().join("usr/of-the-top"), "top\n")?;
    fs::set_permissions(tree.path(), Permissions::from_mode(0o755))?;
    fs::create_dir(store.root.join("squash"))?;
    let file = store.root.join(format!("squash/{LINK}.squash"));
    let made = Command::new("mksquashfs")
        .arg(tree.path())
        .arg(&file)
        .args(["-quiet", "-no-progress", "-all-root"])
        .output()?;
    Done::from(made).success()?;
    symlink(format!("../../squash/{LINK}.squash"), store.root.join(format!("overlay/l/{LINK}.squash")))?;
    store.check(cluster)?;
    let text = "for how in --userns=host --userns=keep-id; do run $how debian cat /usr/of-the-top; done";
    let done = PLAIN.script_on(cluster, &store.name, text)?.success()?;
    ensure!(done.stdout == "top\ntop\n", "{done:?}");
    Ok(())
}

fn a_bad_layer_file_is_told(cluster: &Cluster) -> anyhow::Result<()> {
    let store = OwnStore::new(cluster, "bad-store", &[(ID, LINK)])?;
    fs::create_dir_all(store.root.join("parallax/layers"))?;
    store.refuses(cluster, PLAIN, "is missing: the image is corrupt")?;

    let file = store.root.join(format!("overlay/l/{LINK}.squash"));
    let good = fs::read(OwnStore::squashfs(cluster)?)?;
    fs::write(&file, &good)?;
    fs::set_permissions(&file, Permissions::from_mode(0o600))?;
    store.refuses(cluster, PLAIN, "Permission denied")?;
    fs::set_permissions(&file, Permissions::from_mode(0o644))?;

    fs::write(&file, &good[..good.len() / 2])?;
    store.refuses(cluster, PLAIN, "is truncated")?;
    fs::write(&file, "this is text")?;
    store.refuses(cluster, PLAIN, "it is not a SquashFS file")?;
    // All but the superblock is lost.
    let mut zeroed = good.clone();
    zeroed[96..].fill(0);
    fs::write(&file, zeroed)?;
    store.refuses(cluster, PLAIN, ".squash cannot be")?;

    fs::write(&file, good)?;
    store.check_with(cluster, PLAIN)
}
