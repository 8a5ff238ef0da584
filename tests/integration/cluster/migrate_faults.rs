//! What can go wrong with a migration: the store is as it was, and one sentence says why.

use std::fs;
use std::process::Command;

use anyhow::ensure;
use integration_tests::cluster::{Cluster, Done, repository};

tests! { cluster:
    layers_that_must_not_be_let_in,
    a_full_file_system,
    a_read_only_store,
    a_registry_that_dies_while_it_serves,
    an_interruption_leaves_the_store_as_it_was,
}

/// A directory of its own, a store with one image in it, and `unchanged`, which compares the store with what `note` saw:
/// every name, kind, size, link and content.
const PRELUDE: &str = r#"
    work=$(mktemp -d) && cd "$work"
    trap 'kill $(jobs -p) 2>/dev/null || true; cd /; umount -l "$work/small" 2>/dev/null || true; rm -rf "$work"' EXIT
    store=$work/store
    parallax() { command parallax --store "$store" "$@"; }
    look() { (cd "$store"; find . -printf '%p %y %m %l\n' | sort; find . -type f ! -name '*.lock' -exec sha256sum {} + | sort); }
    note() { look >"$work/before"; }
    unchanged() { look >"$work/after"; diff "$work/before" "$work/after" >&2; }
    fails() { local expected=$1 code=0; shift; "$@" >said 2>&1 || code=$?; cat said >&2; [ $code = 1 ] && grep -q "$expected" said; }
"#;

fn script(cluster: &Cluster, text: &str) -> anyhow::Result<Done> {
    cluster.run("ctl", "root", &["bash", "-euc", &format!("{PRELUDE}\n{text}")])?.success()
}

fn layers_that_must_not_be_let_in(cluster: &Cluster) -> anyhow::Result<()> {
    let bad = cluster.shared().join("bad");
    let mut layouts = Command::new("python3");
    layouts.arg(repository().join("tests/integration/layouts.py")).arg("bad").arg(&bad);
    let cases = Done::from(layouts.output()?).success()?.stdout;
    let text = r#"
        parallax migrate oci:/images/static; note
        for case in /shared/bad/*; do
            for flat in "" --flatten; do
                code=0
                parallax migrate $flat oci:$case --max-layer-size 200MB --max-layer-entries 1000 >said 2>&1 || code=$?
                echo "$(basename $case): $code $(tr '\n' ' ' <said)"
                unchanged
            done
        done
    "#;
    let done = script(cluster, text);
    fs::remove_dir_all(bad)?;
    let done = done?;
    let expected = [
        ("hard-link-outside", "not a file earlier in the layer"),
        ("hard-link-to-nothing", "not a file earlier in the layer"),
        ("long-name", "1 MiB for names"),
        ("huge-file", "--max-layer-size"),
        ("huge-hole", "--max-layer-size"),
        ("bomb", "--max-layer-size"),
        ("many-entries", "--max-layer-entries"),
        ("deep", "--max-layer-entries"),
        ("truncated", "middle of an entry"),
        ("truncated-gzip", "cannot be read"),
        ("truncated-zstd", "cannot be read"),
        ("damaged-gzip", "cannot be read"),
        ("garbage", "invalid checksum"),
        ("device-number", "device number"),
    ];
    ensure!(cases.lines().count() == expected.len(), "{cases}");
    for (case, part) in expected {
        let lines: Vec<&str> = done.stdout.lines().filter(|line| line.starts_with(&format!("{case}: "))).collect();
        ensure!(lines.len() == 2, "{case}: {done:?}");
        for line in lines {
            let refused = line.contains(": 1 ") && line.contains(part) && line.matches("parallax: ").count() == 1;
            ensure!(refused, "{case}: no {part:?} in {line}");
        }
    }
    Ok(())
}

/// Bytes run out, in the middle of a layer; and inodes, in the middle of what makes an image visible.
fn a_full_file_system(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        mkdir small
        store=$work/small/store
        for option in size=12m nr_inodes=150; do
            mount -t tmpfs -o $option none small
            parallax migrate oci:/images/static; note
            fails 'No space left on device' parallax migrate oci:/images/layers40 --jobs 2
            unchanged
            parallax verify; parallax gc
            umount small
        done
    "#;
    script(cluster, text).map(drop)
}

fn a_read_only_store(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        mkdir small
        store=$work/small/store
        mount -t tmpfs none small
        parallax migrate oci:/images/static; note
        mount -o remount,ro small
        fails 'Read-only file system' parallax migrate oci:/images/debian
        fails 'Read-only file system' parallax tag static other
        unchanged
        # What needs no change is no failure.
        parallax migrate oci:/images/static
        parallax list; parallax verify
    "#;
    let done = script(cluster, text)?;
    ensure!(done.stderr.contains("nothing to do"), "{done:?}");
    // Whoever may not write it is told so.
    let done = cluster.run("ctl", "u1", &["parallax", "migrate", "oci:/images/debian", "--name", "mine"])?;
    ensure!(done.code == 1 && done.stderr.contains("Permission denied"), "{done:?}");
    Ok(())
}

/// The slowest compression makes the transfer last: it is under way when the first second's progress is told.
fn a_registry_that_dies_while_it_serves(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        printf 'version: 0.1\nstorage: { filesystem: { rootdirectory: %s/open } }\nhttp: { addr: "127.0.0.1:5000" }\n' "$work" >open.yml
        mkfifo log events
        docker-registry serve open.yml >log 2>&1 &
        registry=$!
        exec 3<log
        sed '/listening on/q' <&3 | grep 'listening on'
        cat <&3 >/dev/null &
        skopeo copy --quiet --dest-tls-verify=false oci:/images/debian docker://127.0.0.1:5000/debian:1
        parallax migrate oci:/images/static; note
        parallax --log-format json migrate --tls-verify=false docker://127.0.0.1:5000/debian:1 --compression zstd:14 2>events &
        migration=$!
        killed=no
        while read -r line; do
            echo "$line"
            [[ $killed = yes || $line != *layer-progress* ]] || { kill -KILL $registry; killed=yes; }
        done <events
        code=0; wait $migration || code=$?
        echo "code $code, killed $killed"
        unchanged
    "#;
    let done = script(cluster, text)?;
    ensure!(done.stdout.contains("code 1, killed yes") && done.stdout.contains("\"ERROR\""), "{done:?}");
    Ok(())
}

/// The migration waits for a layer in a FIFO: who has opened that for writing knows it.
fn an_interruption_leaves_the_store_as_it_was(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        cp -r /images/debian slow
        blob=$(find slow/blobs -type f -printf '%s %p\n' | sort -n | tail -1 | cut -d' ' -f2)
        rm $blob; mkfifo $blob
        parallax migrate oci:/images/static; note
        for signal in INT TERM HUP; do
            for flat in "" --flatten; do
                command parallax --store "$store" migrate oci:slow --name slow $flat 2>said &
                migration=$!
                exec 4>$blob
                head -c 100000 /dev/zero >&4
                kill -$signal $migration
                code=0; wait $migration || code=$?
                exec 4>&-
                echo "$signal: $code $(cat said)"
                unchanged
            done
        done
    "#;
    let done = script(cluster, text)?;
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let line = format!("{signal}: {code} parallax: interrupted; no unfinished image is left in the store\n");
        ensure!(done.stdout.matches(&line).count() == 2, "no {line:?}: {done:?}");
    }
    Ok(())
}
