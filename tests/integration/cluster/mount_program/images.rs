//! What containers see of the images.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, repository};
use integration_tests::images;

use super::{EVERY, PLAIN, Podman};

tests! {
    guests:
        every_image_is_what_it_is_unpacked;
    cluster:
        keep_id_shows_the_images_own_ids;
}

fn every_image_is_what_it_is_unpacked(cluster: &Cluster) -> anyhow::Result<()> {
    let scan = repository().join("tests/integration/scan.py");
    fs::copy(&scan, cluster.shared().join("scan.py"))?;
    for image in images::IMAGES {
        let reference = images::unpacked(image)?;
        // Podman's versions do not differ in this: one is enough for all images, the others have the one with all kinds.
        for podman in EVERY.into_iter().filter(|podman| *podman == PLAIN || image == "python") {
            // In Podman's namespace the frame's function is known again.
            let text = format!(
                "export -f podman; inside bash -euc 'id=$(podman create --network=host --entrypoint \"\" {image} none); \
                 python3 /shared/scan.py $(podman mount $id); podman umount $id >/dev/null'"
            );
            let done = podman.script(cluster, &text)?.success().with_context(|| format!("{podman:?}: {image}"))?;
            // Debian 12's squashfuse shows `trusted.` attributes as `security.` ones, and those not at all.
            let strip =
                |text: &str| text.lines().map(|line| attributes_left_out(line, podman)).collect::<BTreeSet<_>>();
            let (theirs, ours) = (strip(&reference), strip(&done.stdout));
            let differences: Vec<&String> = theirs.symmetric_difference(&ours).take(10).collect();
            ensure!(theirs.len() > 2 && differences.is_empty(), "{podman:?}: {image}: {differences:#?}");
        }
    }
    fs::remove_file(cluster.shared().join("scan.py"))?;
    Ok(())
}

/// What the scan says of a file, for Debian 12 without its attributes. Layers mark opaque directories in both ways, and root's
/// overlay hides its own way only.
fn attributes_left_out(line: &str, podman: Podman) -> String {
    let mark = "\"user.overlay.opaque\": \"79\"";
    match podman.node {
        "bookworm" => line.split(", \"xattrs\"").next().unwrap_or(line).to_owned(),
        _ if podman.is_rootful() => line.replace(mark, ""),
        _ => line.to_owned(),
    }
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
        let done = PLAIN.script(cluster, &text)?.success().context(image)?;
        let lines: Vec<&str> = done.stdout.lines().collect();
        ensure!(lines[0].parse::<u32>()? > 500, "{image}: {done:?}");
        ensure!(lines[1..] == ["1001", "0:42", "1"], "{image}: {done:?}");
    }
    Ok(())
}
