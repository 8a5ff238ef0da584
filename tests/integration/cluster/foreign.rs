//! Images that podman-hpc and the Go tool brought, written here as they write them: read as they are, run and adopted.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, Done};
use parallax_format::digest::{Digest, LayerId};
use parallax_format::podman::{Image, Link};
use parallax_store::hash::{big_data, link_of_layer, sha256};
use serde_json::{Value, json};

tests! { cluster:
    jobs_run_them_as_they_are,
    commands_know_them,
    adopted_they_have_all_that_ours_have,
}

/// Who brought an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    GoTool,
    PodmanHpc,
}

/// A store of another tool's, with `debian` in it under the names `go:1` and `hpc:1`; or such images in another store.
#[derive(Debug)]
pub(super) struct ForeignStore {
    root: PathBuf,
    /// The directory as the nodes see it.
    pub path: String,
    is_own: bool,
}

impl ForeignStore {
    /// A store below the directory that all nodes share.
    pub(super) fn new(cluster: &Cluster, name: &str) -> anyhow::Result<Self> {
        let store = Self { root: cluster.shared().join(name), path: format!("/shared/{name}"), is_own: true };
        for directory in ["overlay/l", "overlay-images", "overlay-layers", "overlay-containers", "squash"] {
            fs::create_dir_all(store.root.join(directory))?;
        }
        for lock in ["overlay-images/images.lock", "overlay-layers/layers.lock"] {
            fs::write(store.root.join(lock), [b'x'; 64])?;
        }
        store.add(cluster, Tool::GoTool, "localhost/go:1")?;
        store.add(cluster, Tool::PodmanHpc, "localhost/hpc:1")?;
        Ok(store)
    }

    /// The same two images in the cluster's own store, where nothing else is at work meanwhile.
    fn in_the_clusters(cluster: &Cluster) -> anyhow::Result<Self> {
        let store = Self { root: cluster.shared().join("store"), path: "/shared/store".to_owned(), is_own: false };
        fs::create_dir_all(store.root.join("squash"))?;
        store.add(cluster, Tool::GoTool, "localhost/go:1")?;
        store.add(cluster, Tool::PodmanHpc, "localhost/hpc:1")?;
        Ok(store)
    }

    fn add(&self, cluster: &Cluster, tool: Tool, name: &str) -> anyhow::Result<()> {
        let (source, config) = debian(cluster)?;
        let mut config: Value = serde_json::from_str(&config)?;
        config["config"]["Env"] = json!(["PATH=/usr/bin:/bin", format!("BROUGHT_BY={name}")]);
        let config = config.to_string();
        let config_digest = Digest::from(sha256(config.as_bytes()));
        let media = |kind: &str| format!("application/vnd.oci.image.{kind}");
        let manifest = json!({"schemaVersion": 0, "mediaType": media("manifest.v1+json"),
            "config": {"mediaType": media("config.v1+json"), "digest": config_digest, "size": config.len()},
            "layers": [{"mediaType": media("layer.v1.tar"), "digest": Digest::from(sha256(b"marker")), "size": 2048}]})
        .to_string();
        let layers: Vec<LayerId> = match tool {
            Tool::GoTool => vec![sha256(name.as_bytes()).into()],
            Tool::PodmanHpc => ["base", "top"].map(|at| sha256(format!("{at} of {name}").as_bytes()).into()).to_vec(),
        };
        self.change("overlay-layers/layers.json", |list| {
            list.extend(layers.iter().enumerate().map(|(number, id)| {
                let mut entry = json!({"id": id, "created": "2025-01-01T00:00:00Z", "diff-size": 2048,
                    "compressed-size": 2048, "diff-digest": Digest::from(**id), "uidset": [0], "gidset": [0]});
                if number > 0 {
                    entry["parent"] = json!(layers[number - 1]);
                }
                entry
            }));
        })?;
        for id in &layers {
            self.add_layer(id)?;
        }
        let top = *layers.last().context("no layers")?;
        let link = link_of(&top);
        let sidecar = self.root.join(link.sidecar());
        match tool {
            Tool::GoTool => {
                let marker = format!("overlay/{top}/diff/.migrationv3-{}", name.replace(['/', ':'], "-"));
                fs::write(self.root.join(marker), "0\n")?;
                fs::copy(source, self.root.join(format!("squash/{}.squash", link.as_str())))?;
                symlink(format!("../../squash/{}.squash", link.as_str()), sidecar)?;
            }
            Tool::PodmanHpc => drop(fs::copy(source, sidecar)?),
        }
        self.add_image(tool, name, top, &config, &manifest)
    }

    fn add_layer(&self, id: &str) -> anyhow::Result<()> {
        let link = link_of(id);
        for directory in ["diff", "work", "merged", "empty"] {
            fs::create_dir_all(self.root.join("overlay").join(id).join(directory))?;
        }
        fs::write(self.root.join("overlay").join(id).join("link"), link.as_str())?;
        symlink(format!("../{id}/diff"), self.root.join("overlay/l").join(link.as_str()))?;
        fs::write(self.root.join(format!("overlay-layers/{id}.tar-split.gz")), "none")?;
        Ok(())
    }

    fn add_image(&self, tool: Tool, name: &str, top: LayerId, config: &str, manifest: &str) -> anyhow::Result<()> {
        let id = match tool {
            // It draws ids at random.
            Tool::GoTool => sha256(format!("id of {name}").as_bytes()),
            Tool::PodmanHpc => sha256(config.as_bytes()),
        };
        let key = Digest::from(sha256(config.as_bytes())).to_string();
        let data = [big_data("manifest", manifest.as_bytes()), big_data(&key, config.as_bytes())];
        let directory = self.root.join("overlay-images").join(id);
        fs::create_dir_all(&directory)?;
        for piece in &data {
            fs::write(directory.join(piece.file_name()), piece.bytes)?;
        }
        let digest = sha256(manifest.as_bytes()).into();
        let entry = Image::new(id.into(), digest, vec![name.to_owned()], top, "2025-01-01T00:00:00Z", &data);
        self.change("overlay-images/images.json", |list| list.push(json!(entry)))
    }

    fn change(&self, list: &str, how: impl FnOnce(&mut Vec<Value>)) -> anyhow::Result<()> {
        let path = self.root.join(list);
        let mut entries: Vec<Value> = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(_) => Vec::new(),
        };
        how(&mut entries);
        Ok(fs::write(path, serde_json::to_vec(&entries)?)?)
    }
}

impl Drop for ForeignStore {
    fn drop(&mut self) {
        if self.is_own {
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

fn link_of(layer: &str) -> Link {
    link_of_layer(&format!("drawn by lot for {layer}"))
}

/// The SquashFS file of debian's one layer, and its configuration.
fn debian(cluster: &Cluster) -> anyhow::Result<(PathBuf, String)> {
    let store = cluster.shared().join("store");
    let record = fs::read(store.join("parallax/names/localhost%2Fdebian:latest"))?;
    let record: Value = serde_json::from_slice(&record)?;
    let diff_id = record["layers"][0]["diff_id"].as_str().context("no layer")?;
    let config = record["config"].as_str().context("no configuration")?;
    Ok((store.join(Path::new("parallax/layers").join(format!("{diff_id}.squash"))), config.to_owned()))
}

fn parallax(cluster: &Cluster, store: &str, arguments: &[&str]) -> anyhow::Result<Done> {
    let line = [&["parallax", "--store", store], arguments].concat();
    cluster.run("ctl", "root", &line)
}

fn jobs_run_them_as_they_are(cluster: &Cluster) -> anyhow::Result<()> {
    let store = ForeignStore::in_the_clusters(cluster)?;
    for name in ["go:1", "hpc:1"] {
        let image = format!("--parallax-image={name}");
        let done = cluster.srun("u1", &["-N2", &image, "sh", "-c", "echo $BROUGHT_BY; stat -c %u:%g /etc/shadow"])?;
        let done = done.success().context(name)?;
        ensure!(done.stdout.matches(&format!("localhost/{name}\n")).count() == 2, "{name}: {done:?}");
        ensure!(done.stdout.matches("0:42").count() == 2, "{name}: {done:?}");
        let line = [&*image, "--parallax-mode=podman", "podman", "run", "--rm", name, "cat", "/etc/debian_version"];
        cluster.srun("u1", &line)?.success().context(name)?;
        ensure!(
            parallax(cluster, &store.path, &["rm", "--force", name])?.success()?.stdout.contains("removed"),
            "{name}"
        );
        let done = cluster.srun("u1", &[&image, "true"])?;
        ensure!(done.code != 0 && done.stderr.contains("is in no store"), "{name}: {done:?}");
    }
    fs::remove_dir(cluster.shared().join("store/squash"))?;
    let left = parallax(cluster, &store.path, &["verify"])?.success()?;
    ensure!(left.stdout.contains("no problem found"), "{left:?}");
    Ok(())
}

fn json_of(cluster: &Cluster, store: &str, arguments: &[&str]) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&parallax(cluster, store, arguments)?.success()?.stdout)?)
}

fn commands_know_them(cluster: &Cluster) -> anyhow::Result<()> {
    let store = ForeignStore::new(cluster, "theirs")?;
    let list = json_of(cluster, &store.path, &["list", "--json"])?;
    ensure!(list.as_array().is_some_and(|list| list.len() == 2), "{list}");
    for image in list.as_array().into_iter().flatten() {
        ensure!(image["foreign"] == true && image["stored"].as_u64() > Some(1_000_000), "{image}");
        let (id, digest) = (image["id"].as_str().context("no id")?, image["digest"].as_str().context("no digest")?);
        let name = image["names"][0].as_str().context("no name")?;
        for text in [id, &id[..12], &format!("x@{digest}"), name] {
            let inspected = json_of(cluster, &store.path, &["inspect", "--json", text])?;
            ensure!(
                inspected["id"] == id && inspected["config"]["env"][1] == format!("BROUGHT_BY={name}"),
                "{inspected}"
            );
        }
    }
    ensure!(parallax(cluster, &store.path, &["verify"])?.success()?.stdout.contains("2 images verified"));
    let removed = parallax(cluster, &store.path, &["rm", "go:1"])?.success()?;
    ensure!(removed.stdout.contains("removed"), "{removed:?}");
    // What is left: two layers and their links, a side-car, no file of the Go tool's, two tar-splits, one image.
    let count = "cd /shared/theirs; for these in 'overlay/?*' 'overlay/l/*' 'squash/*' 'overlay-layers/*.gz' 'overlay-images/*/'; \
                 do echo $(compgen -G \"$these\" | wc -l); done | xargs";
    let left = cluster.run("ctl", "root", &["bash", "-uc", count])?.success()?;
    ensure!(left.stdout.trim() == "3 3 0 2 1", "{left:?}");
    let list = json_of(cluster, &store.path, &["list", "--json"])?;
    ensure!(list.as_array().is_some_and(|list| list.len() == 1), "{list}");

    cluster.shell("ctl", "cd /shared/theirs/overlay/l; truncate -s 5000 $(ls *.squash)")?;
    let damaged = parallax(cluster, &store.path, &["verify"])?;
    ensure!(damaged.code == 1 && damaged.stdout.contains("superblock that fits it"), "{damaged:?}");
    Ok(())
}

fn adopted_they_have_all_that_ours_have(cluster: &Cluster) -> anyhow::Result<()> {
    let store = ForeignStore::new(cluster, "theirs")?;
    let files = || cluster.shell("ctl", "cd /shared/theirs; find squash overlay -printf '%p %s %T@ %l\\n' | sort");
    let before = files()?;
    let done = json_of(cluster, &store.path, &["migrate", "--adopt", "--json"])?;
    ensure!(done[0]["unchanged"] == false && done[1]["unchanged"] == false, "{done}");
    ensure!(files()? == before, "files were changed");
    let again = parallax(cluster, &store.path, &["migrate", "--adopt", "go:1"])?.success()?;
    ensure!(again.stdout.contains("nothing to do") || again.stderr.contains("nothing to do"), "{again:?}");
    let list = json_of(cluster, &store.path, &["list", "--json"])?;
    for image in list.as_array().into_iter().flatten() {
        ensure!(image["foreign"] == false && image["size"].as_u64() > Some(50_000_000), "{image}");
    }
    ensure!(parallax(cluster, &store.path, &["verify"])?.success()?.stdout.contains("2 images verified"));
    parallax(cluster, &store.path, &["tag", "go:1", "other:1"])?.success()?;
    // Podman sees them as before, with their sizes.
    let podman = "podman --root /tmp/own --runroot /tmp/own-run --storage-opt additionalimagestore=/shared/theirs";
    let script = format!(
        "trap 'podman unshare rm -rf /tmp/own /tmp/own-run; podman system migrate' EXIT; \
         {podman} images --format '{{{{.Repository}}}}:{{{{.Tag}}}} {{{{.Size}}}}'"
    );
    let seen = cluster.run("n2", "u1", &["bash", "-euc", &script])?;
    cluster.shell("n2", "rm -rf /tmp/*1001* /home/u1/.local/share/containers /run/user/1001")?;
    let seen = seen.success()?.stdout;
    for name in ["localhost/go:1", "localhost/hpc:1", "localhost/other:1"] {
        ensure!(seen.contains(name), "{seen}");
    }
    ensure!(seen.lines().any(|line| line.starts_with("localhost/go:1") && line.ends_with("MB")), "{seen}");
    for (name, removed) in [("hpc:1", true), ("go:1", false), ("other:1", true)] {
        let done = parallax(cluster, &store.path, &["rm", name])?.success()?;
        ensure!(done.stdout.contains("removed") == removed, "{name}: {done:?}");
    }
    let left = parallax(cluster, &store.path, &["gc", "--grace", "0"])?.success()?;
    ensure!(left.stdout.contains("removed 2 things"), "{left:?}");
    let left = cluster.shell("ctl", "cd /shared/theirs; find . -name '*.squash' -o -type l")?;
    ensure!(left.is_empty(), "{left}");
    Ok(())
}
