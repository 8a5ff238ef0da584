//! What Podman does with an image of the store, in all versions, for users and for root. What does not work fails with a
//! sentence that says why; no container ever starts on an empty root.

use anyhow::{Context as _, ensure};
use integration_tests::cluster::Cluster;

use super::{EVERY, Podman, ROOTLESS, expect_lines};

tests! {
    guests:
        what_podman_does_with_an_image,
        user_namespaces,
        commits_and_builds,
        images_as_volumes;
}

fn what_podman_does_with_an_image(cluster: &Cluster) -> anyhow::Result<()> {
    let text = "\
        run debian sh -c 'awk \"\\$5 == \\\"/\\\"\" /proc/self/mountinfo | grep -o \" - overlay \"; rm -r /usr/share/doc; test -e /usr/share/doc || echo gone'
        run --read-only debian sh -c 'cat /etc/debian_version >/dev/null; touch /x 2>&1 | grep -o Read-only'
        run --user 33 debian id -u
        podman run --detach --name held --network=host debian sleep 100 >/dev/null
        podman exec held sh -c 'echo exec >/a; cat /a'
        podman ps --format '{{.Names}}'
        podman stop --time 0 held >/dev/null; podman start held >/dev/null; podman exec held cat /a
        podman rm --force --time 0 held >/dev/null; podman ps --all --quiet | wc -l
        mkdir $XDG_RUNTIME_DIR/volume; echo old >$XDG_RUNTIME_DIR/volume/old
        run --volume $XDG_RUNTIME_DIR/volume:/mnt:O debian sh -c 'touch /mnt/new; ls /mnt | xargs'
        ls $XDG_RUNTIME_DIR/volume
        grep -o \"under the kernel's overlay$\" $XDG_RUNTIME_DIR/log | sort -u
        podman info | grep -o 'parallax-mount-program [0-9]'";
    let expected = [
        " - overlay ",
        "gone",
        "Read-only",
        "33",
        "exec",
        "held",
        "exec",
        "0",
        "new old",
        "old",
        "under the kernel's overlay",
        "parallax-mount-program 0",
    ];
    for podman in EVERY {
        let done = podman.script(cluster, text)?.success().with_context(|| format!("{podman:?}"))?;
        expect_lines(&done, &expected).with_context(|| format!("{podman:?}"))?;
    }
    Ok(())
}

/// Ids in the container are the image's in each of them.
fn user_namespaces(cluster: &Cluster) -> anyhow::Result<()> {
    for podman in ROOTLESS {
        let text = "\
            run --userns=keep-id debian sh -c 'id -u; stat -c %u:%g /etc/shadow; ls / | wc -l'
            run --userns=auto debian sh -c 'id -u; stat -c %u:%g /etc/shadow; ls / | wc -l'
            run --userns=nomap debian sh -c 'stat -c %u:%g /etc/shadow; ls / | wc -l'
            run --userns=keep-id --read-only debian sh -c 'ls / | wc -l; touch /x 2>&1 | grep -o Read-only'
            grep -c 'fuse-overlayfs, because only fuse-overlayfs has uidmapping' $XDG_RUNTIME_DIR/log";
        let done = podman.script(cluster, text)?.success().with_context(|| format!("{podman:?}"))?;
        let lines: Vec<&str> = done.stdout.lines().collect();
        ensure!(lines.len() == 11 && lines[2].parse::<u32>()? > 10, "{podman:?}: {done:?}");
        let full = lines[2];
        let expected = ["1001", "0:42", full, "0", "0:42", full, "0:42", full, full, "Read-only", "4"];
        expect_lines(&done, &expected).with_context(|| format!("{podman:?}"))?;
    }
    // Root has no ids of its own to hand out on these nodes, and Podman says so itself.
    for podman in EVERY.into_iter().filter(|podman| podman.is_rootful()) {
        let done = podman.script(cluster, "run --userns=auto debian ls /")?;
        ensure!(
            done.code == 125 && done.stdout.is_empty() && done.stderr.contains("containers"),
            "{podman:?}: {done:?}"
        );
        let text = "run --uidmap 0:200000:65536 --gidmap 0:200000:65536 debian stat -c %u:%g /etc/shadow";
        let done = podman.script(cluster, text)?;
        if podman.node == "bookworm" {
            // Podman 4 maps the ids of the layers' directories itself, which are empty.
            let told = done.stderr.contains("its SquashFS file cannot be reached from there");
            ensure!((125..128).contains(&done.code) && done.stdout.is_empty() && told, "{podman:?}: {done:?}");
        } else {
            expect_lines(&done.success()?, &["0:42"]).with_context(|| format!("{podman:?}"))?;
        }
    }
    Ok(())
}

/// The image is small: at each commit Podman compares all files of the container with those of the image.
fn commits_and_builds(cluster: &Cluster) -> anyhow::Result<()> {
    let text = "\
        podman run --name changed --network=host tiny sh -c 'rm -r /usr/share/doc /etc/debian_version; mkdir /usr/share/doc; echo 1 >/usr/share/doc/one'
        podman commit --quiet changed localhost/committed >/dev/null
        for how in $HOWS; do
            run $how localhost/committed sh -c 'cat /usr/share/doc/*; ls /etc/debian_version 2>/dev/null || echo gone; stat -c %u:%g /etc/shadow'
        done
        mkdir $XDG_RUNTIME_DIR/context
        printf 'FROM tiny\\nRUN rm /etc/debian_version && echo 2 >/two\\nRUN ls /etc/debian_version || cat /two >/three\\n' >$XDG_RUNTIME_DIR/context/Containerfile
        podman build --quiet --network=host --isolation=chroot --tag localhost/built $XDG_RUNTIME_DIR/context >/dev/null
        run localhost/built sh -c 'cat /two /three; ls /etc/debian_version 2>/dev/null || echo gone'";
    for podman in EVERY {
        if podman.node == "bookworm" && !podman.is_rootful() {
            commits_and_builds_are_refused(cluster, podman)?;
            continue;
        }
        let hows = if podman.is_rootful() { "--userns=host --userns=host" } else { "--userns=host --userns=keep-id" };
        let done = podman.script(cluster, &format!("HOWS='{hows}'\n{text}"))?.success();
        let done = done.with_context(|| format!("{podman:?}"))?;
        let expected = ["1", "gone", "0:42", "1", "gone", "0:42", "2", "2", "gone"];
        expect_lines(&done, &expected).with_context(|| format!("{podman:?}"))?;
    }
    Ok(())
}

/// Rootless Podman 4.3 with any mount program wants to own the directories of an additional store.
fn commits_and_builds_are_refused(cluster: &Cluster, podman: Podman) -> anyhow::Result<()> {
    for text in [
        "podman run --name changed --network=host tiny touch /new; podman commit --quiet changed localhost/committed",
        "printf 'FROM tiny\\nRUN touch /new\\n' >$HOME/Containerfile
         podman build --quiet --network=host --isolation=chroot --tag localhost/built $HOME",
    ] {
        let done = podman.script(cluster, text)?;
        let told = done.stderr.contains("chown /shared/store/overlay/") && done.stderr.contains("not permitted");
        ensure!(done.code != 0 && done.stdout.is_empty() && told, "{podman:?}: {done:?}");
    }
    Ok(())
}

/// Podman refuses to mount images of an additional store without a container, before it comes to a mount program. What it says
/// differs by version.
fn images_as_volumes(cluster: &Cluster) -> anyhow::Result<()> {
    for podman in EVERY {
        for text in
            ["run --mount type=image,src=static,dst=/mnt debian ls /mnt", "inside bash -c 'podman image mount debian'"]
        {
            let done = podman.script(cluster, &format!("export -f podman\n{text}"))?;
            let refused =
                ["read/only store", "layer not known", "read-only"].iter().any(|words| done.stderr.contains(words));
            ensure!(done.code != 0 && done.stdout.is_empty() && refused, "{podman:?}: {text}: {done:?}");
        }
    }
    Ok(())
}
