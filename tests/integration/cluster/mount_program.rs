//! The mount program: rootless Podman on a store, with no agent at work. Every script below ends with what `FRAME` says: nothing
//! is left of it, and nobody has waited for that.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, Done, repository};
use integration_tests::images::IMAGES;
use serde_json::{Value, json};

use crate::OnCluster;

pub const TESTS: &[(&str, OnCluster)] = &[
    ("cluster::mount_program::every_image_is_what_it_is_unpacked", every_image_is_what_it_is_unpacked),
    ("cluster::mount_program::keep_id_shows_the_images_own_ids", keep_id_shows_the_images_own_ids),
    ("cluster::mount_program::what_podman_does_with_an_image", what_podman_does_with_an_image),
    ("cluster::mount_program::commits_and_builds", commits_and_builds),
    ("cluster::mount_program::twenty_containers_at_once", twenty_containers_at_once),
    ("cluster::mount_program::a_bad_layer_file_is_told", a_bad_layer_file_is_told),
    ("cluster::mount_program::programs_that_fail_are_told", programs_that_fail_are_told),
    ("cluster::mount_program::killed_at_any_point_it_leaves_nothing", killed_at_any_point_it_leaves_nothing),
    ("cluster::mount_program::images_of_the_go_tool", images_of_the_go_tool),
    ("cluster::mount_program::images_of_podman_hpc", images_of_podman_hpc),
    ("cluster::mount_program::any_bytes_in_paths_and_the_real_root", any_bytes_in_paths_and_the_real_root),
    ("cluster::mount_program::probes_are_answered", probes_are_answered),
];

const STORE: &str = "/shared/store";
const NODE: &str = "n1";
const PROGRAM: &str = "/usr/libexec/parallax/parallax-mount-program";

/// What is around a script: Podman with a graph root of its own on STORE; `run` for a container that goes when it ends. Then the
/// containers go, and every process that served a file system must go by itself; then Podman's own goes.
const FRAME: &str = r#"
export XDG_RUNTIME_DIR=/tmp/mount-program PARALLAX_MP_LOGLEVEL=info
mkdir -m 0700 $XDG_RUNTIME_DIR
podman() {
    command podman --root $XDG_RUNTIME_DIR/graph --runroot $XDG_RUNTIME_DIR/run \
        --storage-opt additionalimagestore=STORE --storage-opt mount_program=PROGRAM "$@"
}
run() { podman run --rm --network=host "$@"; }
end() {
    status=$?
    set +e
    podman rm --all --force --time=0 >/dev/null
    timeout 20 pidwait -u "$USER" 'conmon|podman|squashfuse|fuse-overlayfs' && echo "waited for the end of processes" >&2
    if pgrep -lu "$USER" 'squashfuse|fuse-overlayfs' >&2; then status=99; fi
    command podman unshare rm -rf $XDG_RUNTIME_DIR/graph $XDG_RUNTIME_DIR/run
    pause=$XDG_RUNTIME_DIR/libpod/tmp/pause.pid
    if grep -E 'merged|squashfuse|fuse-overlayfs' /proc/$(cat $pause)/mountinfo >&2; then status=98; fi
    kill $(cat $pause)
    timeout 20 pidwait --pidfile $pause
    rm -rf $XDG_RUNTIME_DIR
    exit $status
}
trap end EXIT
"#;

/// Runs a script in the frame, as a user on a compute node.
fn script(cluster: &Cluster, store: &str, text: &str) -> anyhow::Result<Done> {
    let whole = format!("{}{text}", FRAME.replace("STORE", store).replace("PROGRAM", PROGRAM));
    let done = cluster.run(NODE, "u1", &["bash", "-euc", &whole])?;
    ensure!(![98, 99].contains(&done.code), "something was left: {done:?}");
    Ok(done)
}

fn every_image_is_what_it_is_unpacked(cluster: &Cluster) -> anyhow::Result<()> {
    let scan = repository().join("tests/integration/scan.py");
    fs::copy(&scan, cluster.shared().join("scan.py"))?;
    for image in IMAGES {
        let directory = tempfile::tempdir_in(repository().join("target"))?;
        let root = directory.path().join("root");
        let unpack = repository().join("tests/images/unpack");
        Done::from(Command::new(unpack).arg(image).arg(&root).output()?).success()?;
        let reference = Done::from(Command::new("python3").arg(&scan).arg(&root).output()?).success()?.stdout;
        // In Podman's namespace the frame's function is known again.
        let text = format!(
            "export -f podman; podman unshare bash -euc 'id=$(podman create --network=host --entrypoint \"\" {image} none); \
             python3 /shared/scan.py $(podman mount $id); podman umount $id >/dev/null'"
        );
        let done = script(cluster, STORE, &text)?.success().context(image)?;
        let (theirs, ours): (BTreeSet<&str>, BTreeSet<&str>) =
            (reference.lines().collect(), done.stdout.lines().collect());
        let differences: Vec<&&str> = theirs.symmetric_difference(&ours).take(10).collect();
        ensure!(theirs.len() > 2 && differences.is_empty(), "{image}: {differences:#?}");
    }
    fs::remove_file(cluster.shared().join("scan.py"))?;
    Ok(())
}

fn keep_id_shows_the_images_own_ids(cluster: &Cluster) -> anyhow::Result<()> {
    // What Podman itself puts into a container is not compared.
    let list = "find / -xdev \\( -path /etc -o -path /run -o -path /home -o -path /root -o -path /srv/kinds/private \\) -prune -o \
                -printf '%U:%G %m %y %l %P\\n' | sort";
    for image in ["debian", "python", "layers40"] {
        let text = format!(
            "run --user 0 --entrypoint '' {image} sh -c \"{list}\" >$XDG_RUNTIME_DIR/root; \
             run --user 0 --userns=keep-id --entrypoint '' {image} sh -c \"{list}\" >$XDG_RUNTIME_DIR/keep; \
             diff $XDG_RUNTIME_DIR/root $XDG_RUNTIME_DIR/keep | head -20 >&2; \
             cmp $XDG_RUNTIME_DIR/root $XDG_RUNTIME_DIR/keep; wc -l <$XDG_RUNTIME_DIR/root; \
             run --userns=keep-id --user 1001 --entrypoint '' {image} sh -c 'id -u; stat -c %u:%g /etc/shadow; grep -c \"fuse-overlayfs\" /proc/self/mountinfo'"
        );
        let done = script(cluster, STORE, &text)?.success().context(image)?;
        let lines: Vec<&str> = done.stdout.lines().collect();
        ensure!(lines[0].parse::<u32>()? > 500, "{image}: {done:?}");
        ensure!(lines[1..] == ["1001", "0:42", "1"], "{image}: {done:?}");
    }
    Ok(())
}

fn what_podman_does_with_an_image(cluster: &Cluster) -> anyhow::Result<()> {
    let text = "\
        run debian sh -c 'awk \"\\$5 == \\\"/\\\"\" /proc/self/mountinfo | grep -o \" - overlay \"; rm -r /usr/share/doc; test -e /usr/share/doc || echo gone'
        run --read-only debian sh -c 'cat /etc/debian_version >/dev/null; touch /x 2>&1 | grep -o Read-only'
        run --userns=auto debian stat -c %u:%g /etc/shadow
        run --user 33 debian id -u
        podman run --detach --name held --network=host debian sleep 100 >/dev/null
        podman exec held sh -c 'echo exec >/a; cat /a'
        podman ps --format '{{.Names}}'
        podman stop --time 0 held >/dev/null; podman start held >/dev/null; podman exec held cat /a
        mkdir $XDG_RUNTIME_DIR/volume; echo old >$XDG_RUNTIME_DIR/volume/old
        run --volume $XDG_RUNTIME_DIR/volume:/mnt:O debian sh -c 'touch /mnt/new; ls /mnt | xargs'
        ls $XDG_RUNTIME_DIR/volume";
    let done = script(cluster, STORE, text)?.success()?;
    let expected = [" - overlay ", "gone", "Read-only", "0:42", "33", "exec", "held", "exec", "new old", "old"];
    ensure!(done.stdout.lines().eq(expected), "{done:?}");

    // Podman refuses this before it comes to a mount program.
    let mount = script(cluster, STORE, "run --mount type=image,src=static,dst=/mnt debian ls /mnt")?;
    ensure!(mount.code != 0 && mount.stderr.contains("read/only store"), "{mount:?}");
    Ok(())
}

fn commits_and_builds(cluster: &Cluster) -> anyhow::Result<()> {
    let text = "\
        podman run --name changed --network=host debian sh -c 'rm -r /usr/share/doc /etc/debian_version; mkdir /usr/share/doc; echo 1 >/usr/share/doc/one'
        podman commit --quiet changed localhost/committed >/dev/null
        for how in --userns=host --userns=keep-id; do
            run $how localhost/committed sh -c 'cat /usr/share/doc/*; ls /etc/debian_version 2>/dev/null || echo gone; stat -c %u:%g /etc/shadow'
        done
        mkdir $XDG_RUNTIME_DIR/context
        printf 'FROM debian\\nRUN rm /etc/debian_version && echo 2 >/two\\nRUN ls /etc/debian_version || cat /two >/three\\n' >$XDG_RUNTIME_DIR/context/Containerfile
        podman build --quiet --network=host --isolation=chroot --tag localhost/built $XDG_RUNTIME_DIR/context >/dev/null
        run localhost/built sh -c 'cat /two /three; ls /etc/debian_version 2>/dev/null || echo gone'";
    let done = script(cluster, STORE, text)?.success()?;
    let expected = ["1", "gone", "0:42", "1", "gone", "0:42", "2", "2", "gone"];
    ensure!(done.stdout.lines().eq(expected), "{done:?}");
    Ok(())
}

fn twenty_containers_at_once(cluster: &Cluster) -> anyhow::Result<()> {
    let text = "\
        run static true >/dev/null 2>&1 || true
        for i in $(seq 20); do
            how=host; [ $((i % 4)) != 0 ] || how=keep-id
            (run --userns=$how layers40 sh -c 'ls /usr/bin | wc -l') &
        done
        wait";
    let done = script(cluster, STORE, text)?.success()?;
    let counts: Vec<&str> = done.stdout.lines().collect();
    ensure!(counts.len() == 20 && counts.iter().all(|count| *count == counts[0] && *count != "0"), "{done:?}");
    Ok(())
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

    /// The script that tells whether the image is debian.
    fn check(&self, cluster: &Cluster) -> anyhow::Result<()> {
        for how in ["--userns=host", "--userns=keep-id", "--read-only"] {
            let text = format!("run {how} debian sh -c 'stat -c %u:%g /etc/shadow; ls /usr/bin | wc -l'");
            let done = script(cluster, &self.name, &text)?.success()?;
            let lines: Vec<&str> = done.stdout.lines().collect();
            ensure!(lines[0] == "0:42" && lines[1].parse::<u32>()? > 100, "{how}: {done:?}");
        }
        Ok(())
    }

    /// A container must not start, for a reason with these words.
    fn refuses(&self, cluster: &Cluster, words: &str) -> anyhow::Result<()> {
        for how in ["--userns=host", "--userns=keep-id"] {
            let done = script(cluster, &self.name, &format!("run {how} debian true"))?;
            ensure!(done.code == 125 || done.code == 126 || done.code == 127, "{how}, not {words}: {done:?}");
            ensure!(done.stderr.matches("parallax-mount-program: ").count() >= 1, "{done:?}");
            ensure!(done.stderr.contains(words), "{how}, not {words}: {done:?}");
        }
        Ok(())
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
    store.refuses(cluster, "is missing: the image is damaged")
}

/// A chain of layers with no `lower`, and one flattened file, a plain one, beside the top layer's link.
fn images_of_podman_hpc(cluster: &Cluster) -> anyhow::Result<()> {
    let store = OwnStore::new(cluster, "hpc-store", &[(BELOW, LINK_BELOW), (ID, LINK)])?;
    let file = store.root.join(format!("overlay/l/{LINK}.squash"));
    fs::copy(OwnStore::squashfs(cluster)?, &file)?;
    store.check(cluster)?;
    fs::remove_file(file)?;
    store.refuses(cluster, "none has a SquashFS file")
}

fn a_bad_layer_file_is_told(cluster: &Cluster) -> anyhow::Result<()> {
    let store = OwnStore::new(cluster, "bad-store", &[(ID, LINK)])?;
    fs::create_dir_all(store.root.join("parallax/layers"))?;
    store.refuses(cluster, "is missing: the image is damaged")?;

    let file = store.root.join(format!("overlay/l/{LINK}.squash"));
    let good = fs::read(OwnStore::squashfs(cluster)?)?;
    fs::write(&file, &good)?;
    fs::set_permissions(&file, Permissions::from_mode(0o600))?;
    store.refuses(cluster, "Permission denied")?;
    fs::set_permissions(&file, Permissions::from_mode(0o644))?;

    fs::write(&file, &good[..good.len() / 2])?;
    store.refuses(cluster, "is shorter than it says")?;
    fs::write(&file, "this is text")?;
    store.refuses(cluster, "it is no SquashFS file")?;
    // All but the superblock is lost.
    let mut zeroed = good.clone();
    zeroed[96..].fill(0);
    fs::write(&file, zeroed)?;
    store.refuses(cluster, "was mounted and can't be read")?;

    fs::write(&file, good)?;
    store.check(cluster)
}

fn programs_that_fail_are_told(cluster: &Cluster) -> anyhow::Result<()> {
    let wrapper = |name: &str, line: &str| -> anyhow::Result<String> {
        let path = cluster.shared().join(name);
        fs::write(&path, format!("#!/bin/sh\n{line}\n"))?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        Ok(format!("/shared/{name}"))
    };
    let fails = wrapper("fails", "echo it is broken >&2; exit 3")?;
    let vanishes = wrapper("vanishes", "exit 0")?;
    for (variable, program, how, words) in [
        ("PARALLAX_MP_SQUASHFUSE_CMD", "/none", "host", "/none is not installed"),
        ("PARALLAX_MP_SQUASHFUSE_CMD", fails.as_str(), "host", "/shared/fails failed: it is broken"),
        ("PARALLAX_MP_SQUASHFUSE_CMD", vanishes.as_str(), "host", "was mounted and can't be read"),
        ("PARALLAX_MP_FUSE_OVERLAYFS_CMD", "/none", "keep-id", "/none is not installed"),
        ("PARALLAX_MP_FUSE_OVERLAYFS_CMD", fails.as_str(), "keep-id", "/shared/fails failed: it is broken"),
        ("PARALLAX_MP_FUSE_OVERLAYFS_CMD", vanishes.as_str(), "keep-id", ""),
    ] {
        let done = script(cluster, STORE, &format!("export {variable}={program}; run --userns={how} debian true"))?;
        ensure!((125..128).contains(&done.code) && done.stderr.contains(words), "not {words}: {done:?}");
    }
    for name in ["fails", "vanishes"] {
        fs::remove_file(cluster.shared().join(name))?;
    }
    Ok(())
}

fn killed_at_any_point_it_leaves_nothing(cluster: &Cluster) -> anyhow::Result<()> {
    let path = cluster.shared().join("kills");
    for (variable, program) in
        [("PARALLAX_MP_SQUASHFUSE_CMD", "squashfuse_ll"), ("PARALLAX_MP_FUSE_OVERLAYFS_CMD", "fuse-overlayfs")]
    {
        for line in [format!("kill -9 $PPID; exec {program} \"$@\""), format!("{program} \"$@\"; kill -9 $PPID")] {
            fs::write(&path, format!("#!/bin/sh\n{line}\n"))?;
            fs::set_permissions(&path, Permissions::from_mode(0o755))?;
            let text = format!("export {variable}=/shared/kills; run --userns=keep-id layers40 true");
            let done = script(cluster, STORE, &text)?;
            ensure!((125..128).contains(&done.code) && done.stderr.contains("killed"), "{line}: {done:?}");
        }
    }
    Ok(fs::remove_file(path)?)
}

/// The program itself, without Podman, which takes few of these paths; by a user and by root.
fn any_bytes_in_paths_and_the_real_root(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        odd=$(printf 'a b,c:d"e\\f\377')
        escaped=$(printf '%s' "$odd" | sed 's/[\\,:]/\\&/g')
        base=$(mktemp -d /tmp/odd.XXXXXX)
        mkdir -p "$base/$odd/overlay/l" "$base/$odd/overlay/id/diff" "$base/$odd/u" "$base/$odd/w" "$base/$odd/m"
        mkdir -p "$base/tree/sub"; echo inside >"$base/tree/sub/file"
        mksquashfs "$base/tree" "$base/$odd/overlay/l/ABC.squash" -quiet -no-progress >/dev/null
        printf ABC >"$base/$odd/overlay/id/link"; ln -s ../id/diff "$base/$odd/overlay/l/ABC"
        at="$base/$escaped"
        for lower in l/ABC id/diff; do
            for more in "" ,volatile ,noacl; do
                PROGRAM -o "lowerdir=$at/overlay/$lower,upperdir=$at/u,workdir=$at/w,$more" "$base/$odd/m"
                echo changed >"$base/$odd/m/sub/new"
                cat "$base/$odd/m/sub/file" "$base/$odd/u/sub/new" | xargs
                umount "$base/$odd/m"
                rm -rf "$base/$odd/u" "$base/$odd/w"; mkdir "$base/$odd/u" "$base/$odd/w"
            done
            PROGRAM -o "lowerdir=$at/overlay/$lower" "$base/$odd/m"
            if touch "$base/$odd/m/sub/new" 2>/dev/null; then echo writable; fi
            cat "$base/$odd/m/sub/file"; umount "$base/$odd/m"
        done
        timeout 20 pidwait 'squashfuse|fuse-overlayfs'
        rm -r "$base""#
        .replace("PROGRAM", PROGRAM);
    let expected = ["inside changed", "inside changed", "inside changed", "inside"].repeat(2);
    let quoted = format!(
        "cat >$XDG_RUNTIME_DIR/script <<'END'\n{text}\nEND\ncommand podman unshare bash -u $XDG_RUNTIME_DIR/script"
    );
    let user = script(cluster, STORE, &quoted)?;
    ensure!(user.stdout.lines().eq(expected.iter().copied()), "{user:?}");
    let root = cluster.run(NODE, "root", &["bash", "-uc", &text])?;
    ensure!(root.stdout.lines().eq(expected.iter().copied()), "{root:?}");
    Ok(())
}

fn probes_are_answered(cluster: &Cluster) -> anyhow::Result<()> {
    for probe in ["--version", "-V", "--help"] {
        let done = cluster.run(NODE, "u1", &[PROGRAM, probe])?.success()?;
        ensure!(done.stdout.contains("parallax-mount-program") && done.stderr.is_empty(), "{done:?}");
    }
    let done = cluster.run(NODE, "u1", &[PROGRAM, "-o", "volatile", "/tmp"])?;
    ensure!(done.code == 1 && done.stderr == "parallax-mount-program: the options name no lowerdir\n", "{done:?}");
    ensure!(cluster.run(NODE, "u1", &[PROGRAM])?.code == 2);
    Ok(())
}
