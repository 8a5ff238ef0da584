//! A container's root is the image's, bit by bit: compared with the same image unpacked by tools that are not ours
//! (`tests/images/unpack`: skopeo and umoci), for every test image, and in both kinds of user namespace.
//!
//! The trees are described by `scan.py`; the container's is looked at before it starts, when Podman has not yet put its own
//! files (`/etc/hosts` and the like) into it, from Podman's user namespace.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, repository};
use integration_tests::{images, load};
use serde_json::{Value, json};

tests! { cluster:
    debian,
    python,
    static_image,
    layers40,
    many_files,
    a_task_sees_the_images_own_ids,
}

/// The id of the user the containers are made by.
const USER: u64 = 1001;

/// Files by path, each with all that describes it.
type Tree = BTreeMap<String, Value>;

fn debian(cluster: &Cluster) -> anyhow::Result<()> {
    same_as_unpacked(cluster, "debian")
}

fn python(cluster: &Cluster) -> anyhow::Result<()> {
    same_as_unpacked(cluster, "python")
}

fn static_image(cluster: &Cluster) -> anyhow::Result<()> {
    same_as_unpacked(cluster, "static")
}

fn layers40(cluster: &Cluster) -> anyhow::Result<()> {
    same_as_unpacked(cluster, "layers40")
}

fn many_files(cluster: &Cluster) -> anyhow::Result<()> {
    let image = load::size("many", "numpy")?;
    images::build(&[image])?;
    images::migrate(cluster, image)?;
    same_as_unpacked(cluster, image)
}

pub(super) fn same_as_unpacked(cluster: &Cluster, image: &str) -> anyhow::Result<()> {
    let reference = parse(&images::unpacked(image)?)?;
    ensure!(reference.len() > 2, "the reference is empty");
    compare(&reference, &in_container(cluster, image, "")?, "as root").context(image.to_owned())?;
    let seen_from_podman = in_container(cluster, image, "--userns=keep-id")?;
    let seen_inside = seen_from_podman.into_iter().map(|(path, file)| (path, as_seen_inside(file))).collect();
    compare(&reference, &seen_inside, "with keep-id").context(image.to_owned())
}

/// The root of a container that was created from the store and not started.
fn in_container(cluster: &Cluster, image: &str, option: &str) -> anyhow::Result<Tree> {
    fs::copy(repository().join("tests/integration/scan.py"), cluster.shared().join("scan.py"))?;
    let script = format!(
        "podman unshare sh -euc 'id=$(podman create {option} --entrypoint \"\" {image} none); python3 /shared/scan.py $(podman mount $id)'"
    );
    let image = format!("--parallax-image={image}");
    let done = cluster.srun("u1", &[&image, "--parallax-mode=podman", "sh", "-euc", &script])?.success()?;
    fs::remove_file(cluster.shared().join("scan.py"))?;
    parse(&done.stdout)
}

fn parse(lines: &str) -> anyhow::Result<Tree> {
    let mut tree = Tree::new();
    for line in lines.lines() {
        let mut file: Value = serde_json::from_str(line)?;
        let path = file["path"].as_str().context("no path")?.to_owned();
        file.as_object_mut().context("no object")?.remove("path");
        tree.insert(path, file);
    }
    Ok(tree)
}

/// A file as a process in a keep-id container sees it, from how Podman's own namespace sees it. There the container's ids are
/// one higher up to the user's own, which is 0; and a file capability names its root, the container's.
fn as_seen_inside(mut file: Value) -> Value {
    for key in ["uid", "gid"] {
        let inside = match file[key].as_u64().unwrap_or_default() {
            0 => USER,
            id if id <= USER => id - 1,
            id => id,
        };
        file[key] = json!(inside);
    }
    let capability = &mut file["xattrs"]["security.capability"];
    // Version 3 with the container's root, 1 here; inside it is version 2 (capabilities(7)).
    if let Some(text) = capability.as_str() {
        if let Some(bits) = text.strip_suffix("01000000").filter(|_| text.len() == 48) {
            *capability = json!(bits.replacen("03", "02", 1));
        }
    } else if let Some(all) = file["xattrs"].as_object_mut() {
        all.remove("security.capability");
    }
    file
}

fn compare(reference: &Tree, ours: &Tree, how: &str) -> anyhow::Result<()> {
    let mut differences = Vec::new();
    for path in reference.keys().chain(ours.keys().filter(|path| !reference.contains_key(*path))) {
        let (theirs, ours) = (reference.get(path), ours.get(path));
        if theirs != ours {
            differences.push(format!("{path} (base64): {theirs:?}\n  in the container: {ours:?}"));
        }
    }
    ensure!(
        differences.is_empty(),
        "{} files differ {how}:\n{}",
        differences.len(),
        differences[..differences.len().min(20)].join("\n")
    );
    Ok(())
}

/// The ids that a task in the image and a container of Podman's show are those in the image.
fn a_task_sees_the_images_own_ids(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "find /srv/kinds -printf '%U:%G %m\\n' 2>/dev/null | sort | uniq -c";
    let task = cluster.srun("u1", &["--parallax-image=python", "sh", "-c", script])?.success()?;
    ensure!(task.stdout.contains("60000") && !task.stdout.contains("65534"), "{task:?}");
    for option in ["--userns=host", "--userns=keep-id"] {
        let run = format!("podman run --rm {option} --user 0 --entrypoint '' python sh -c \"{script}\"");
        let podman =
            cluster.srun("u1", &["--parallax-image=python", "--parallax-mode=podman", "sh", "-c", &run])?.success()?;
        // A container's root sees into directories that the user does not.
        let missing: Vec<&str> = task
            .stdout
            .lines()
            .filter(|line| !podman.stdout.contains(line.trim_start().split_once(' ').map_or("", |(_, ids)| ids)))
            .collect();
        ensure!(missing.is_empty(), "{option}: {missing:?}\n{}", podman.stdout);
    }
    Ok(())
}
