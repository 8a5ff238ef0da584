//! Many writers at once, with Podman reading the store meanwhile.

use std::fs;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, Done};

tests! { cluster:
    eight_writers_and_podman_reading,
}

/// Eight images that share a layer and differ in their configuration; each is brought and removed again and again.
const WRITERS: &str = "
    parallax() { command parallax --quiet --store /shared/concurrent/store \"$@\"; }
    for i in $(seq 8); do
        cp -r /images/static $work/$i
        umoci config --image $work/$i:latest --config.env NUMBER=$i 2>/dev/null || umoci config --image $work/$i:static --config.env NUMBER=$i
    done
    parallax migrate oci:/images/static --name kept
    for i in $(seq 8); do
        (
            for round in $(seq 12); do
                parallax migrate oci:$work/$i --name image$i
                parallax list | grep -q localhost/image$i
                parallax rm image$i
            done
            parallax migrate oci:$work/$i --name image$i
        ) || touch /shared/concurrent/failed &
    done
    for i in $(seq 12); do
        parallax gc --grace 0 && parallax verify || touch /shared/concurrent/failed
    done
    wait
    [[ ! -e /shared/concurrent/failed ]]
    parallax verify
    parallax list | grep -c localhost/
    parallax gc --grace 0
    parallax verify
    parallax list | grep -c localhost/
";

/// What must hold at any time: Podman lists the store, and the image that stays runs.
const READER: &str = r#"
    export XDG_RUNTIME_DIR=$(mktemp -d /tmp/reader.XXXXXX)
    podman() {
        command podman --root $XDG_RUNTIME_DIR/graph --runroot $XDG_RUNTIME_DIR/run \
            --storage-opt additionalimagestore=/shared/concurrent/store \
            --storage-opt mount_program=/usr/libexec/parallax/parallax-mount-program "$@"
    }
    end() {
        status=$?
        set +e
        command podman unshare rm -rf $XDG_RUNTIME_DIR/graph $XDG_RUNTIME_DIR/run
        pause=$XDG_RUNTIME_DIR/libpod/tmp/pause.pid
        pid=$(cat $pause) && kill $pid && timeout 20 pidwait --pidfile $pause
        rm -rf $XDG_RUNTIME_DIR
        exit $status
    }
    trap end EXIT
    rounds=0
    until [[ -e /shared/concurrent/stop ]]; do
        podman images --format '{{.Repository}}' >$XDG_RUNTIME_DIR/names
        grep -q localhost/kept $XDG_RUNTIME_DIR/names
        [[ $(podman run --rm --network=none kept hello) == *hello* ]]
        rounds=$((rounds + 1))
    done
    echo rounds $rounds
"#;

fn eight_writers_and_podman_reading(cluster: &Cluster) -> anyhow::Result<()> {
    let shared = cluster.shared().join("concurrent");
    fs::create_dir_all(&shared)?;
    let tested = writers_and_readers(cluster);
    fs::remove_dir_all(&shared)?;
    tested
}

fn writers_and_readers(cluster: &Cluster) -> anyhow::Result<()> {
    let prepare = "parallax --store /shared/concurrent/store migrate oci:/images/static --name kept";
    cluster.shell("ctl", prepare)?;
    let start = |node: &str| {
        let mut reader = cluster.command(node, "u1", &["bash", "-euc", READER]);
        reader.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    };
    let readers = [start("n1")?, start("n2")?];
    let script = format!("work=$(mktemp -d /tmp/writers.XXXXXX); trap 'rm -rf $work' EXIT\n{WRITERS}");
    let written = cluster.run("ctl", "root", &["bash", "-euc", &script]);
    fs::write(cluster.shared().join("concurrent/stop"), "")?;
    let read: Vec<Done> =
        readers.into_iter().map(|reader| Ok(Done::from(reader.wait_with_output()?))).collect::<anyhow::Result<_>>()?;
    let written = written?.success().context("the writers")?;
    ensure!(written.stdout.lines().filter(|line| *line == "9").count() == 2, "images were lost: {written:?}");
    for done in read {
        let done = done.success().context("a reader")?;
        let rounds: u32 = done.stdout.trim().strip_prefix("rounds ").context("no rounds")?.parse()?;
        ensure!(rounds > 0, "{done:?}");
    }
    Ok(())
}
