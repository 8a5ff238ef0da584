//! Layers in EROFS: made by erofs-utils of Debian sid, on its guest, and read by nodes that have the kernel of this machine.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, Done};
use integration_tests::held::HeldStep;
use serde_json::Value;

use super::backend::with_config;
use super::{fidelity, mount_program};

tests! {
    guests:
        an_image_in_erofs_is_the_image_bit_by_bit,
        steps_read_erofs_without_loop_devices_and_say_so,
        an_image_in_both_formats_is_read_from_either,
        a_corrupt_erofs_file_is_refused,
        erofs_utils_that_are_not_good_enough_are_refused,
        the_same_layer_gives_the_same_bytes,
        commands_know_both_formats,
        layers_that_depend_on_those_below_keep_their_directories,
        podman_without_an_agent_uses_erofsfuse,
        a_node_that_cannot_read_erofs_says_what_it_needs;
}

/// The store of these tests, on the file system that all nodes share.
const STORE: &str = "/shared/erofs";
const CONFIG: &str = "stores = [\"/shared/erofs\"]\n";

/// Runs `body` with a store that has these images, migrated on the guest with these options.
fn with_store(
    cluster: &Cluster,
    images: &[&str],
    options: &[&str],
    body: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    cluster.start_guest("sid")?;
    let made = images.iter().try_for_each(|image| migrate(cluster, "sid", image, options)?.success().map(drop));
    let tested = made.and_then(|()| body());
    cluster.shell("ctl", &format!("rm -rf {STORE}"))?;
    tested
}

fn migrate(cluster: &Cluster, node: &str, image: &str, options: &[&str]) -> anyhow::Result<Done> {
    let source = format!("oci:/images/{image}");
    let mut line = vec!["parallax", "--store", STORE, "migrate", source.as_str()];
    line.extend(options);
    cluster.run(node, "root", &line)
}

/// Runs `body` while n1 has the store of these tests.
fn on_node(cluster: &Cluster, more: &str, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    with_config(cluster, "n1", &format!("{CONFIG}{more}"), body)
}

/// The layers' files in the store, of a format.
fn files(cluster: &Cluster, extension: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(cluster.shared().join("erofs/parallax/layers"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == extension) {
            files.push(path);
        }
    }
    files.sort();
    ensure!(!files.is_empty(), "no {extension} files");
    Ok(files)
}

/// Writes other bytes into the middle of files, which keep their sizes.
fn corrupt(files: &[PathBuf]) -> anyhow::Result<()> {
    for file in files {
        let file = fs::OpenOptions::new().write(true).open(file)?;
        file.write_all_at(&[0x5A; 4096], file.metadata()?.len() / 2)?;
    }
    Ok(())
}

/// What the agent of n1 says of the layers of its only step.
fn source(cluster: &Cluster) -> anyhow::Result<Value> {
    let done = cluster.run("n1", "root", &["parallax", "status", "--json"])?.success()?;
    let status: Value = serde_json::from_str(&done.stdout)?;
    status.pointer("/steps/0/source").cloned().with_context(|| format!("no source in {status}"))
}

/// Starts a step with an image on n1 and returns what the agent says of its layers.
fn source_of(cluster: &Cluster, image: &str) -> anyhow::Result<(String, String)> {
    let option = format!("--parallax-image={image}");
    let step = HeldStep::start(cluster, "u1", &["-w", "n1", &option], 1, "stat -c %u:%g /etc/shadow")?;
    ensure!(step.lines == ["0:42"], "{:?}", step.lines);
    let source = source(cluster)?;
    step.finish()?;
    let text = |key: &str| source[key].as_str().unwrap_or_default().to_owned();
    Ok((text("kind"), text("reason")))
}

fn an_image_in_erofs_is_the_image_bit_by_bit(cluster: &Cluster) -> anyhow::Result<()> {
    let images = ["debian", "python", "static", "layers40"];
    with_store(cluster, &images, &["--format", "erofs"], || {
        on_node(cluster, "", || images.iter().try_for_each(|image| fidelity::same_as_unpacked(cluster, image)))
    })
}

fn steps_read_erofs_without_loop_devices_and_say_so(cluster: &Cluster) -> anyhow::Result<()> {
    with_store(cluster, &["debian"], &["--format", "erofs", "--compression", "lz4"], || {
        on_node(cluster, "", || {
            let step =
                HeldStep::start(cluster, "u1", &["-w", "n1", "--parallax-image=debian"], 1, "cat /etc/debian_version")?;
            let source = source(cluster)?;
            let told = source["reason"].as_str().is_some_and(|reason| reason.ends_with("; EROFS without loop devices"));
            ensure!(source["kind"] == "erofs" && source["backend"] == "native" && told, "{source}");
            let mounts = cluster.shell("n1", "grep -E ' - (erofs|squashfs) ' /proc/1/mountinfo")?;
            ensure!(mounts.lines().count() > 0 && !mounts.contains("squashfs"), "{mounts}");
            ensure!(!mounts.contains("/dev/loop"), "{mounts}");
            // Another agent knows it from the journal, and goes on with the mounts.
            cluster.service("n1", "stop", "agent")?;
            cluster.service("n1", "start", "agent")?;
            ensure!(self::source(cluster)? == source, "{source}");
            step.finish()?;
            let left = cluster.shell("n1", "grep -E ' - (erofs|squashfs) ' /proc/1/mountinfo || :")?;
            ensure!(left.is_empty(), "{left}");
            let shown = cluster.run("n1", "root", &["parallax", "doctor"])?;
            ensure!(shown.stdout.contains("kernel EROFS"), "{shown:?}");
            Ok(())
        })
    })
}

fn an_image_in_both_formats_is_read_from_either(cluster: &Cluster) -> anyhow::Result<()> {
    with_store(cluster, &["debian"], &["--format", "squashfs"], || {
        on_node(cluster, "", || {
            ensure!(source_of(cluster, "debian")?.0 == "squashfs", "not from SquashFS");
            let done = migrate(cluster, "sid", "debian", &["--format", "squashfs,erofs"])?.success()?;
            ensure!(done.stderr.contains("new") && !done.stderr.contains("already in the store"), "{done:?}");
            ensure!(source_of(cluster, "debian")?.0 == "erofs", "not from EROFS");
            let done = migrate(cluster, "sid", "debian", &["--format", "squashfs,erofs"])?.success()?;
            ensure!(done.stderr.contains("nothing to do"), "{done:?}");
            // By the version nodes know that it is worth a look.
            let record = cluster.shell("ctl", &format!("cat {STORE}/parallax/images/*.json"))?;
            let record: Value = serde_json::from_str(&record)?;
            ensure!(record["version"] == 2 && record["layers"][0].get("format").is_none(), "{record}");
            Ok(())
        })?;
        // An EROFS file that is not what was migrated is no reason to refuse the step, and never used.
        corrupt(&files(cluster, "erofs")?)?;
        on_node(cluster, "[agent]\nverify = \"always\"\n", || {
            let (kind, reason) = source_of(cluster, "debian")?;
            let told =
                reason.contains("SquashFS instead of EROFS: the layer parallax/layers/") && reason.contains("SHA-256");
            ensure!(kind == "squashfs" && told, "{kind}: {reason}");
            Ok(())
        })
    })
}

fn a_corrupt_erofs_file_is_refused(cluster: &Cluster) -> anyhow::Result<()> {
    with_store(cluster, &["debian"], &["--format", "erofs"], || {
        let start = || cluster.srun("u1", &["-w", "n1", "--parallax-image=debian", "true"]);
        on_node(cluster, "[agent]\nverify = \"always\"\n", || {
            start()?.success()?;
            corrupt(&files(cluster, "erofs")?)?;
            let done = start()?;
            ensure!(done.code != 0 && done.stderr.contains("is not what was migrated"), "{done:?}");
            for file in files(cluster, "erofs")? {
                fs::OpenOptions::new().write(true).open(file)?.set_len(5000)?;
            }
            let done = start()?;
            ensure!(done.code != 0 && done.stderr.contains("its size differs"), "{done:?}");
            let done = cluster.run("ctl", "root", &["parallax", "--store", STORE, "verify"])?;
            ensure!(done.code == 1 && done.stdout.contains(".erofs has 5000 bytes and should have"), "{done:?}");
            Ok(())
        })
    })
}

fn erofs_utils_that_are_not_good_enough_are_refused(cluster: &Cluster) -> anyhow::Result<()> {
    const NEEDED: &str = "install erofs-utils 1.8.9 or newer";
    cluster.start_guest("bookworm")?;
    for (node, reason) in [("bookworm", "mkfs.erofs is too old (1.5)"), ("ctl", "mkfs.erofs cannot be run")] {
        for format in ["erofs", "squashfs,erofs"] {
            let done = migrate(cluster, node, "static", &["--format", format])?;
            let told = done.stderr.contains(reason) && done.stderr.contains(NEEDED);
            ensure!(done.code == 1 && told, "{node}: {done:?}");
        }
    }
    ensure!(!cluster.shared().join("erofs").exists(), "a store was made");
    let done = migrate(cluster, "ctl", "static", &["--format", "ext4"])?;
    ensure!(done.code == 2 && done.stderr.contains("must be squashfs, erofs or squashfs,erofs"), "{done:?}");
    Ok(())
}

fn the_same_layer_gives_the_same_bytes(cluster: &Cluster) -> anyhow::Result<()> {
    let digests = |options: &[&str]| -> anyhow::Result<String> {
        let mut digests = String::new();
        let options = [&["--format", "erofs"], options].concat();
        with_store(cluster, &["python"], &options, || {
            digests = cluster.shell("ctl", &format!("cd {STORE}/parallax/layers && sha256sum *.erofs"))?;
            Ok(())
        })?;
        Ok(digests)
    };
    let one = digests(&["--processors", "1", "--jobs", "1"])?;
    ensure!(one == digests(&["--processors", "3", "--jobs", "2"])?, "other bytes: {one}");
    ensure!(one != digests(&["--compression", "none"])?, "the compression makes no difference: {one}");
    Ok(())
}

fn commands_know_both_formats(cluster: &Cluster) -> anyhow::Result<()> {
    let parallax = |arguments: &[&str]| {
        let line = [&["parallax", "--store", STORE], arguments].concat();
        cluster.run("ctl", "root", &line)
    };
    let json = |arguments: &[&str]| -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&parallax(arguments)?.success()?.stdout)?)
    };
    with_store(cluster, &["debian"], &["--format", "squashfs,erofs"], || {
        migrate(cluster, "sid", "static", &["--format", "erofs"])?.success()?;
        let debian = json(&["inspect", "--json", "debian"])?;
        let layer = &debian["layers"][0];
        ensure!(layer["format"] == "squashfs" && layer["erofs"]["file"].as_str().is_some(), "{layer}");
        let size = |path: &str| -> anyhow::Result<u64> { Ok(fs::metadata(cluster.path_on("ctl", path)?)?.len()) };
        let erofs = size(layer["erofs"]["file"].as_str().context("no file")?)?;
        ensure!(layer["erofs"]["stored"] == erofs, "{layer}");
        let alone = json(&["inspect", "--json", "static"])?;
        let layer = &alone["layers"][0];
        ensure!(layer["format"] == "erofs" && layer["erofs"].is_null(), "{layer}");
        ensure!(layer["file"].as_str().is_some_and(|file| file.ends_with(".erofs")), "{layer}");
        let list = json(&["list", "--json"])?;
        let stored = |id: &Value| {
            list.as_array().into_iter().flatten().find(|image| image["id"] == *id).map(|image| image["stored"].clone())
        };
        ensure!(stored(&debian["id"]).as_ref() == Some(&debian["stored"]), "{list}");
        parallax(&["verify"])?.success()?;
        parallax(&["verify", "--deep"])?.success()?;
        let done = parallax(&["chunk", "static"])?;
        ensure!(done.code == 1 && done.stderr.contains("only SquashFS files are cut into chunks"), "{done:?}");
        parallax(&["chunk", "debian"])?.success()?;
        parallax(&["verify"])?.success()?;
        let none = json(&["gc", "--json", "--grace", "0"])?;
        ensure!(none["removed"].as_array().is_some_and(Vec::is_empty), "{none}");

        let image_in_squashfs = migrate(cluster, "sid", "static", &["--format", "squashfs"])?.success()?;
        ensure!(json(&["inspect", "--json", "static"])?["layers"][0]["format"] == "squashfs", "{image_in_squashfs:?}");
        parallax(&["verify"])?.success()?;
        parallax(&["rm", "static"])?.success()?;
        parallax(&["rm", "debian"])?.success()?;
        parallax(&["gc", "--grace", "0"])?.success()?;
        let left = cluster
            .shell("ctl", &format!("find {STORE}/parallax {STORE}/overlay -name '*.erofs*' -o -name '*.squash'"))?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
}

/// A layer with an entry in a directory that it has no entry for, over layers that give the directory mode 1777.
fn layers_that_depend_on_those_below_keep_their_directories(cluster: &Cluster) -> anyhow::Result<()> {
    let layers = r#"
import hashlib, io, json, os, sys, tarfile
root = sys.argv[1]
os.makedirs(root + "/blobs/sha256")
def blob(data):
    digest = hashlib.sha256(data).hexdigest()
    open(f"{root}/blobs/sha256/{digest}", "wb").write(data)
    return "sha256:" + digest, len(data)
def layer(entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, mode in entries:
            info = tarfile.TarInfo(name)
            info.mode, info.uid, info.gid, info.mtime = mode, 7, 8, 1000000000
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            tar.addfile(info, io.BytesIO(b""))
    return blob(out.getvalue())
many = [(f"many/{i:04}-{'x' * 40}", 0o644) for i in range(300)]
blobs = [layer([("tmp/", 0o1777), ("many/", 0o2755), ("srv/deep/", 0o750)] + many), layer([("tmp/link", 0o600), ("srv/deep/x", 0o644), ("many/y", 0o644)])]
config, size = blob(json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [d for d, _ in blobs]}}).encode())
tar = "application/vnd.oci.image.layer.v1.tar"
manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": size},
    "layers": [{"mediaType": tar, "digest": d, "size": s} for d, s in blobs]}
digest, size = blob(json.dumps(manifest).encode())
json.dump({"schemaVersion": 2, "manifests": [{"mediaType": manifest["mediaType"], "digest": digest, "size": size}]}, open(root + "/index.json", "w"))
json.dump({"imageLayoutVersion": "1.0.0"}, open(root + "/oci-layout", "w"))
"#;
    let place = cluster.shared().join("erofs-odd");
    Done::from(Command::new("python3").args(["-c", layers]).arg(place).output()?).success()?;
    let made = with_store(cluster, &[], &[], || {
        let line =
            ["parallax", "--store", STORE, "migrate", "--format", "erofs", "oci:/shared/erofs-odd", "--name", "odd"];
        cluster.run("sid", "root", &line)?.success()?;
        let seen = cluster.shell("sid", &format!("unsquashfs -lln {STORE}/overlay/l/*.squash"))?;
        let has = |mode: &str, path: &str| {
            seen.lines().any(|line| {
                line.starts_with(&format!("{mode} 7/8 ")) && line.ends_with(&format!("squashfs-root/{path}"))
            })
        };
        ensure!(has("drwxrwxrwt", "tmp") && has("drwxr-sr-x", "many") && has("drwxr-x---", "srv/deep"), "{seen}");
        cluster.run("ctl", "root", &["parallax", "--store", STORE, "verify"])?.success().map(drop)
    });
    cluster.shell("ctl", "rm -rf /shared/erofs-odd")?;
    made
}

fn podman_without_an_agent_uses_erofsfuse(cluster: &Cluster) -> anyhow::Result<()> {
    with_store(cluster, &["debian"], &["--format", "erofs"], || {
        let script = "run debian stat -c %u:%g:%a /etc/shadow; run debian cat /etc/debian_version >&2";
        let done = mount_program::script_on_sid(cluster, STORE, script)?.success()?;
        ensure!(done.stdout.trim() == "0:42:640", "{done:?}");
        // Debian 13 has no erofsfuse on the nodes.
        let done = mount_program::script_without_agent(cluster, STORE, "run debian true")?;
        ensure!(done.code != 0 && done.stderr.contains("erofsfuse is not installed"), "{done:?}");
        // With both, SquashFS serves.
        migrate(cluster, "sid", "debian", &["--format", "squashfs,erofs"])?.success()?;
        mount_program::script_without_agent(cluster, STORE, "run debian true")?.success().map(drop)
    })
}

fn a_node_that_cannot_read_erofs_says_what_it_needs(cluster: &Cluster) -> anyhow::Result<()> {
    with_store(cluster, &["debian"], &["--format", "erofs"], || {
        let start = || cluster.srun("u1", &["-w", "n1", "--parallax-image=debian", "cat", "/etc/debian_version"]);
        on_node(cluster, "[agent]\nmounts = \"fuse\"\n", || {
            let done = start()?;
            ensure!(done.code != 0 && done.stderr.contains("erofsfuse is not installed"), "{done:?}");
            migrate(cluster, "sid", "debian", &["--format", "squashfs,erofs"])?.success()?;
            start()?.success().map(drop)
        })
    })
}
