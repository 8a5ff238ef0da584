//! Images in chunks only, where no agent is: `parallax-lazy` serves each layer's file to squashfuse.

use anyhow::ensure;
use integration_tests::cluster::Cluster;

use super::super::lazy::{READ_ALL, expected, publish};
use super::{Podman, ROOTLESS, expect_lines};

tests! {
    guests:
        every_rootless_podman_runs_an_image_in_chunks_only;
    cluster:
        containers_share_what_serves_their_layers,
        a_chunk_store_that_is_away_fails_reads_until_it_is_back,
        a_wrong_chunk_is_never_read,
        a_server_that_is_killed_fails_reads_and_harms_no_later_container;
}

/// A copy of the store that belongs to the user, and Podman with it.
const OWN_STORE: &str = r#"
store=$XDG_RUNTIME_DIR/store
cp -r /shared/lazy $store
podman() {
    command podman --root $XDG_RUNTIME_DIR/graph --runroot $XDG_RUNTIME_DIR/run \
        --storage-opt additionalimagestore=$store --storage-opt mount_program=PROGRAM "$@"
}
start() { podman run --detach --name $1 --network=host python sleep 1000 >/dev/null; }
files() { pgrep -cu "$USER" parallax-lazy || true; }
read_all() { podman exec $1 sh -c "$READ_ALL"; }
fails() { podman exec $1 sh -c 'find /usr /opt -xdev -type f -exec cat {} + >/dev/null' 2>&1 | grep -q 'Input/output error' && echo fails; }
chunks=$store/parallax/layers/default.castr
"#;

/// Runs a script on a store with the image `python` in chunks only, from which the user's own copy is made. `body` gets what it prints, and the
/// digest of the image's files.
fn with_store(
    cluster: &Cluster,
    podman: Podman,
    text: &str,
    lines: impl FnOnce(&str) -> Vec<String>,
) -> anyhow::Result<()> {
    let digest = expected(cluster, "n2")?;
    let frame = OWN_STORE.replace("PROGRAM", super::PROGRAM);
    let run = || podman.script(cluster, &format!("READ_ALL='{READ_ALL}'{frame}{text}"))?.success();
    let done = publish(cluster, false).and_then(|()| run());
    cluster.shell("ctl", "rm -rf /shared/lazy")?;
    let lines = lines(digest.trim());
    expect_lines(&done?, &lines.iter().map(String::as_str).collect::<Vec<_>>())
}

fn of(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|&line| line.to_owned()).collect()
}

fn every_rootless_podman_runs_an_image_in_chunks_only(cluster: &Cluster) -> anyhow::Result<()> {
    let text = "
        run python python3 -c 'import json; print(json.dumps([1]))'
        timeout 20 pidwait -u $USER parallax-lazy || true
        [ $(run --userns=keep-id --user $(id --user) python id --user) = $(id --user) ] && echo own
        start one; read_all one";
    for podman in ROOTLESS {
        with_store(cluster, podman, text, |digest| of(&["[1]", "own", digest]))?;
    }
    Ok(())
}

fn containers_share_what_serves_their_layers(cluster: &Cluster) -> anyhow::Result<()> {
    // The image has five layers.
    let text = "
        start one; start two
        files; served
        read_all one
        podman kill one >/dev/null; podman rm --force --time 0 one >/dev/null
        read_all two
        start three; files
        podman rm --all --force --time 0 >/dev/null
        timeout 20 pidwait -u $USER parallax-lazy || true
        files; served";
    with_store(cluster, ROOTLESS[1], text, |digest| of(&["5", "5", digest, digest, "5", "0", "0"]))
}

fn a_chunk_store_that_is_away_fails_reads_until_it_is_back(cluster: &Cluster) -> anyhow::Result<()> {
    let text = "
        start one
        podman exec one sh -c 'echo /etc/debian_version | xargs cat; find /etc/debian_version' >/dev/null
        mv $chunks $chunks.away
        fails one
        mv $chunks.away $chunks
        read_all one
        grep -c 'a reader gets an error: cannot fetch chunk .*default.castr: not found' $XDG_RUNTIME_DIR/log | grep -v '^0$' >/dev/null && echo logged";
    with_store(cluster, ROOTLESS[1], text, |digest| of(&["fails", digest, "logged"]))
}

fn a_wrong_chunk_is_never_read(cluster: &Cluster) -> anyhow::Result<()> {
    // Most chunks are replaced by one that is whole, but another one.
    let text = "
        start one
        podman exec one sh -c 'echo /etc/debian_version | xargs cat; find /etc/debian_version' >/dev/null
        cp -r $chunks $chunks.right
        wrong=$(find $chunks -name '*.cacnk' | head -1)
        cp $wrong $XDG_RUNTIME_DIR/wrong
        for chunk in $(find $chunks -name '*.cacnk'); do cp --remove-destination $XDG_RUNTIME_DIR/wrong $chunk; done
        fails one
        [ \"$(read_all one 2>/dev/null || true)\" != \"$EXPECTED\" ] && echo other
        rm -r $chunks; mv $chunks.right $chunks
        read_all one
        grep -q 'the chunk is corrupt' $XDG_RUNTIME_DIR/log && echo logged";
    let text = format!("EXPECTED='{}'\n{text}", expected(cluster, "n2")?.trim());
    with_store(cluster, ROOTLESS[1], &text, |digest| of(&["fails", "other", digest, "logged"]))
}

fn a_server_that_is_killed_fails_reads_and_harms_no_later_container(cluster: &Cluster) -> anyhow::Result<()> {
    let text = "
        start one
        podman exec one sh -c 'echo /etc/debian_version | xargs cat; find /etc/debian_version' >/dev/null
        pkill -KILL -u $USER parallax-lazy
        fails one
        start two
        read_all two
        grep -c 'is not shared' $XDG_RUNTIME_DIR/log
        podman rm --force --time 0 one >/dev/null
        read_all two";
    with_store(cluster, ROOTLESS[1], text, |digest| of(&["fails", digest, "5", digest]))?;
    // Without the program the message names it.
    let text = "
        mkdir $XDG_RUNTIME_DIR/bin; cp /usr/libexec/parallax/parallax-mount-program $XDG_RUNTIME_DIR/bin/
        PATH=/usr/bin:/bin
        podman() {
            command podman --root $XDG_RUNTIME_DIR/graph --runroot $XDG_RUNTIME_DIR/run \
                --storage-opt additionalimagestore=$store --storage-opt mount_program=$XDG_RUNTIME_DIR/bin/parallax-mount-program \"$@\"
        }
        run python true 2>&1 | grep -o 'parallax-lazy is not installed' || true";
    with_store(cluster, ROOTLESS[1], text, |_| of(&["parallax-lazy is not installed"]))?;
    ensure!(cluster.shell("n1", "pgrep -c parallax-lazy || true")?.trim() == "0", "a server is left");
    Ok(())
}
