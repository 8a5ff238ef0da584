//! One squashfuse for each layer and user on a node.

use std::fs;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::Cluster;

use super::{EVERY, PLAIN, expect_lines};

tests! {
    guests:
        every_podman_shares;
    cluster:
        fifty_containers_at_once,
        a_squashfuse_that_hangs_is_not_shared,
        a_name_that_another_user_took_is_left_alone;
}

/// All of them are started at once, run together, and are ended at once.
fn fifty_containers_at_once(cluster: &Cluster) -> anyhow::Result<()> {
    let text = "\
        run static true >/dev/null 2>&1 || true
        for i in $(seq 50); do
            how=host; [ $((i % 10)) != 0 ] || how=keep-id
            podman run --detach --rm --name c$i --userns=$how --network=host debian sleep 1000 >/dev/null &
        done
        wait
        podman ps --quiet | wc -l; served
        for i in $(seq 50); do podman exec c$i sh -c 'ls /usr/bin | wc -l' & done | sort -u | wc -l
        wait
        podman kill --all >/dev/null
        all_end
        podman ps --all --quiet | wc -l; served";
    expect_lines(&PLAIN.script(cluster, text)?.success()?, &["50", "1", "1", "0", "0"])
}

fn every_podman_shares(cluster: &Cluster) -> anyhow::Result<()> {
    // The base goes on, so that each of the others has to be waited for.
    let text = "\
        base=$(podman image inspect --format '{{index .RootFS.Layers 0}}' debian); base=${base#sha256:}
        others_end() {
            for pid in $(pgrep -u $USER squashfuse); do
                ls -l /proc/$pid/fd 2>/dev/null | grep -q $base && continue
                echo $pid >$XDG_RUNTIME_DIR/pid; timeout 20 pidwait --pidfile $XDG_RUNTIME_DIR/pid || true
            done
        }
        for i in 1 2 3; do podman run --detach --name c$i --network=host layers40 sleep 1000 >/dev/null & done; wait
        podman run --detach --name other --network=host $KEEP debian sleep 1000 >/dev/null
        served
        podman rm --force --time 0 c1 c2 >/dev/null
        podman exec c3 sh -c 'ls /usr/bin | wc -l' >/dev/null; served
        podman rm --force --time 0 c3 >/dev/null; others_end; served
        podman exec other cat /etc/debian_version >/dev/null; podman rm --force --time 0 other >/dev/null";
    for podman in EVERY {
        let keep = if podman.is_rootful() { "" } else { "--userns=keep-id" };
        let done = podman.script(cluster, &format!("KEEP={keep}\n{text}"))?.success();
        let done = done.with_context(|| format!("{podman:?}"))?;
        // The base of the image with forty layers is the other image's one layer.
        expect_lines(&done, &["40", "40", "1"]).with_context(|| format!("{podman:?}"))?;
    }
    Ok(())
}

fn a_squashfuse_that_hangs_is_not_shared(cluster: &Cluster) -> anyhow::Result<()> {
    let text = "\
        podman run --detach --name first --network=host debian sleep 1000 >/dev/null
        pkill -STOP squashfuse
        PARALLAX_MP_START_TIMEOUT=1 podman run --detach --name second --network=host debian sleep 1000 >/dev/null
        podman exec second ls /etc/debian_version; served
        grep -o 'is not used: no answer within 1 s' $XDG_RUNTIME_DIR/log
        pkill -CONT squashfuse
        podman exec first ls /etc/debian_version";
    let there = "/etc/debian_version";
    expect_lines(&PLAIN.script(cluster, text)?.success()?, &[there, "2", "is not used: no answer within 1 s", there])
}

/// The name of a socket is free to all. A user who has root's gets nothing by it, and root's containers run.
fn a_name_that_another_user_took_is_left_alone(cluster: &Cluster) -> anyhow::Result<()> {
    let squat = "import socket, sys\n\
                 s = socket.socket(socket.AF_UNIX)\n\
                 s.bind('\\0' + sys.argv[1][1:])\n\
                 s.listen()\n\
                 print('ready', flush=True)\n\
                 sys.stdin.read()\n";
    fs::write(cluster.shared().join("squat.py"), squat)?;
    let text = "\
        podman run --detach --name first --network=host debian sleep 1000 >/dev/null
        name=$(grep -o '@parallax-mp/.*' /proc/net/unix)
        podman rm --force --time 0 first >/dev/null; timeout 20 pidwait squashfuse || true
        coproc setpriv --reuid 1002 --regid 1002 --clear-groups python3 /shared/squat.py \"$name\"
        read -r word <&${COPROC[0]}; echo $word
        for i in 1 2; do podman run --detach --network=host debian sleep 1000 >/dev/null; done
        served; grep -c 'is not shared' $XDG_RUNTIME_DIR/log
        exec {COPROC[1]}>&-; wait";
    let done = EVERY[3].script(cluster, text)?.success()?;
    fs::remove_file(cluster.shared().join("squat.py"))?;
    ensure!(done.stdout.starts_with("ready"), "{done:?}");
    expect_lines(&done, &["ready", "2", "2"])
}
