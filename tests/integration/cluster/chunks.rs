//! Layers in chunks: what administrators do with them, and that casync agrees.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, Done};

tests! { cluster:
    casync_makes_the_same_of_layers_and_reads_them,
    chunks_are_shown_checked_and_removed_with_their_images,
    images_in_chunks_only_are_checked_named_and_made_whole,
    images_that_cannot_be_chunked_are_named,
    an_interruption_leaves_no_chunk,
    the_chunks_that_a_command_reads_are_recorded,
}

/// A store on the shared file system.
const PRELUDE: &str = r#"
    store=/shared/chunked
    trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$store"' EXIT
    parallax() { command parallax --store "$store" "$@"; }
    chunks() { find "$store"/parallax/layers/default.castr -name '*.cacnk' | wc -l; }
"#;

fn script(cluster: &Cluster, text: &str) -> anyhow::Result<Done> {
    cluster.run("ctl", "root", &["bash", "-euc", &format!("{PRELUDE}\n{text}")])?.success()
}

/// casync of this machine: the nodes have none.
fn casync(directory: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("casync").args(arguments).current_dir(directory).output();
    Ok(Done::from(output.context("casync cannot be run; install the package casync")?).success()?.stdout)
}

fn casync_makes_the_same_of_layers_and_reads_them(cluster: &Cluster) -> anyhow::Result<()> {
    let done = script(
        cluster,
        r#"
        trap - EXIT
        parallax migrate --chunked oci:/images/python oci:/images/static
        parallax verify
        code=0; parallax migrate --chunked oci:/images/python || code=$?; echo again: $code
        echo files: $(find "$store"/parallax/tmp -mindepth 1 | wc -l)
        "#,
    );
    let directory = cluster.shared().join("chunked/parallax/layers");
    let check = || {
        let done = done?;
        ensure!(done.stdout.contains("again: 0\nfiles: 0\n"), "{done:?}");
        ensure!(done.stderr.contains("nothing to do; 5 layers already in chunks, nothing to do"), "{done:?}");
        let mut compared = 0;
        for entry in fs::read_dir(&directory)? {
            let index = entry?.path();
            if index.extension().is_none_or(|extension| extension != "caibx") {
                continue;
            }
            let file = fs::read(index.with_extension("squash"))?;
            let theirs = tempfile::tempdir()?;
            fs::write(theirs.path().join("file"), &file)?;
            casync(theirs.path(), &["make", "theirs.caibx", "file"])?;
            let same = fs::read(theirs.path().join("theirs.caibx"))? == fs::read(&index)?;
            ensure!(same, "casync makes another index of {}", index.display());
            casync(theirs.path(), &["extract", index.to_str().context("odd path")?, "out"])?;
            ensure!(fs::read(theirs.path().join("out"))? == file, "casync extracts another {}", index.display());
            compared += 1;
        }
        ensure!(compared >= 4, "only {compared} layers were compared");
        Ok(())
    };
    let result = check();
    fs::remove_dir_all(cluster.shared().join("chunked"))?;
    result
}

fn chunks_are_shown_checked_and_removed_with_their_images(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        parallax migrate oci:/images/debian oci:/images/python
        ! parallax list | grep CHUNKS
        parallax chunk debian; base=$(chunks); echo base: $base
        parallax list
        parallax chunk --json debian python | tr -d ' \n'; echo
        parallax list --json | tr -d ' \n'; echo
        parallax inspect python | grep -A1 caibx
        # A chunk that is missing, and one that is another's.
        set -- $(find "$store"/parallax/layers/default.castr -name '*.cacnk' | head -3)
        rm $1; cp $2 $3
        code=0; parallax verify || code=$?; echo verify: $code
        parallax chunk --again debian python
        parallax verify
        parallax rm python
        before=$(chunks)
        parallax gc; [ $(chunks) = $before ]
        parallax gc --grace 0 --dry-run; [ $(chunks) = $before ]
        parallax gc --grace 0
        [ $(chunks) = $base ]
        parallax verify
        parallax rm debian; parallax gc --grace 0 --json | tr -d ' \n'; echo
        echo left: $(chunks)
    "#;
    let done = script(cluster, text)?;
    let expected = [
        "CHUNKS\n",
        // Debian's one layer is Python's base.
        "\"image\":\"debian\",",
        "\"files\":1,\"new_files\":0,",
        "\"files\":5,\"new_files\":4,",
        "\"chunks\":{\"chunks\":",
        ".caibx\n",
        " stored\n",
        "that cannot be used",
        "run parallax chunk --again with the image",
        "verify: 1\n",
        "2 images verified, no problem found",
        "and chunks that no other layer has",
        "would remove ",
        "1 image verified, no problem found",
        "\"writers\":0",
        "left: 0\n",
    ];
    for part in expected {
        ensure!(done.stdout.contains(part), "no {part:?}: {done:?}");
    }
    Ok(())
}

fn images_in_chunks_only_are_checked_named_and_made_whole(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        fails() { local expected=$1 code=0; shift; "$@" >/tmp/said 2>&1 || code=$?; cat /tmp/said >&2; [ $code = 1 ] && grep -q "$expected" /tmp/said; }
        files() { (cd "$store"/parallax/layers && sha256sum *.squash); }
        parallax migrate oci:/images/debian oci:/images/python
        before=$(files)
        parallax rm python; parallax gc --grace 0
        parallax migrate --chunked --chunks-only oci:/images/python
        files | wc -l
        parallax list --json | tr -d ' \n'; echo
        parallax inspect python | grep -c 'in chunks only'
        parallax verify; parallax verify --deep python
        parallax gc --grace 0; parallax verify
        fails 'in chunks only; run parallax chunk --whole' parallax chunk --again python
        fails 'in chunks only; run parallax chunk --whole python first' parallax trace python -- true
        # Also of the base, of which both images had the file.
        parallax chunk --chunks-only debian python
        [ "$(ls "$store"/parallax/layers/*.squash 2>/dev/null | wc -l)" = 0 ]
        # One is corrupt: no file is made of it.
        set -- $(find "$store"/parallax/layers/default.castr -name '*.cacnk' | head -2)
        cp $1 /tmp/chunk; cp $2 $1
        code=0; parallax verify || code=$?; echo verify: $code
        code=0; parallax chunk --whole debian python || code=$?; echo whole: $code
        cp /tmp/chunk $1; rm /tmp/chunk
        parallax migrate oci:/images/python
        parallax chunk --whole debian python
        [ "$(files)" = "$before" ]
        parallax verify
        parallax rm python; parallax migrate --chunked --chunks-only oci:/images/python
        parallax rm python debian; parallax gc --grace 0
        find "$store"/parallax/layers -type f | wc -l
        rm /tmp/said
    "#;
    let done = script(cluster, text)?;
    let expected = [
        // The base is another image's.
        "\n1\n",
        "\"only\":true",
        "\"only\":false",
        "\n4\n",
        "2 images verified, no problem found",
        "remove all images that have the layer",
        "verify: 1\n",
        "whole: 1\n",
    ];
    for part in expected {
        ensure!(done.stdout.contains(part), "no {part:?}: {done:?}");
    }
    for part in ["1 SquashFS file kept: images have", "4 SquashFS files (", "made again from chunks", "nothing to do"] {
        ensure!(done.stderr.contains(part), "no {part:?}: {done:?}");
    }
    ensure!(done.stdout.ends_with("\n0\n"), "{done:?}");
    Ok(())
}

fn images_that_cannot_be_chunked_are_named(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        fails() { local expected=$1 code=0; shift; "$@" >said 2>&1 || code=$?; cat said >&2; [ $code = 1 ] && grep -q "$expected" said; }
        cd $(mktemp -d)
        parallax migrate oci:/images/static
        fails 'missing cannot be chunked: .*is in no store' parallax chunk missing
        code=0; parallax chunk missing static || code=$?; [ $code = 1 ]
        [ $(chunks) -gt 0 ]
        # One of two is changed.
        file=$(echo "$store"/parallax/layers/*.squash)
        printf x | dd of=$file bs=1 seek=3000 conv=notrunc status=none
        fails 'has changed since it was stored; run parallax verify' parallax chunk --again static
        code=0; parallax chunk 2>said || code=$?; [ $code = 2 ]
        rm -rf "$PWD"
    "#;
    script(cluster, text).map(drop)
}

fn an_interruption_leaves_no_chunk(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        parallax migrate oci:/images/static
        # The end of the layer's file comes when the test wants it.
        file=$(echo "$store"/parallax/layers/*.squash)
        rm $file; mkfifo $file
        look() { find "$store" -printf '%p %y %m %l\n' | sort; }
        before=$(look)
        for signal in INT TERM; do
            command parallax --store "$store" chunk static 2>/tmp/said &
            chunking=$!
            exec 4>$file
            head -c 3000000 /dev/urandom >&4
            kill -$signal $chunking
            code=0; wait $chunking || code=$?
            exec 4>&-
            echo "$signal: $code $(cat /tmp/said)"
            [ "$(look)" = "$before" ]
        done
        command parallax --store "$store" chunk static &
        chunking=$!
        exec 4>$file
        head -c 3000000 /dev/urandom >&4
        kill -KILL $chunking
        wait $chunking || true
        exec 4>&-
        ls "$store"/parallax/tmp
        parallax gc
        [ "$(look)" = "$before" ]
        rm /tmp/said
    "#;
    let done = script(cluster, text)?;
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let line = format!("{signal}: {code} parallax: interrupted; no unfinished image is left in the store\n");
        ensure!(done.stdout.contains(&line), "no {line:?}: {done:?}");
    }
    ensure!(done.stdout.contains("work-"), "nothing was left to collect: {done:?}");
    Ok(())
}

/// By an account without privileges that may write the store, on a node without an agent's help.
fn the_chunks_that_a_command_reads_are_recorded(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        export XDG_RUNTIME_DIR=$(mktemp -d) HOME=$(mktemp -d)
        store=/shared/traced
        trap 'rm -rf $XDG_RUNTIME_DIR $HOME' EXIT
        parallax() { command parallax --store $store "$@"; }
        traces() { find $store/parallax/layers -name '*.trace' | wc -l; }
        parallax migrate oci:/images/python
        code=0; parallax trace python -- true 2>said || code=$?; echo unchunked: $code; cat said
        parallax chunk python
        code=0; parallax trace python -- python3 -c 'exit(7)' 2>said || code=$?; echo failed: $code; cat said; echo traces: $(traces)
        parallax trace python -- python3 -c 'print("hello from", 6 * 7)'
        echo traces: $(traces)
        parallax inspect python | grep -c 'fetched first'
        parallax trace --json python -- python3 -c 'import json' | tr -d ' \n'; echo
        parallax verify
        # Another index, another trace.
        set -- $store/parallax/layers/*.trace
        cp $1 kept; sed -i 's/^index ....../index 000000/' $1
        code=0; parallax verify || code=$?; echo verify: $code
        cp kept $1; rm kept said
        parallax rm python; parallax gc --grace 0
        echo traces: $(traces)
        ls -d /tmp/parallax-trace* 2>/dev/null || true
    "#;
    cluster.shell("ctl", "mkdir /shared/traced; chown u1 /shared/traced")?;
    let done = cluster.run("n1", "u1", &["bash", "-euc", text]);
    cluster.shell("ctl", "rm -rf /shared/traced")?;
    let done = done?.success()?;
    let expected = [
        "unchunked: 1\n",
        "has no chunks; run parallax chunk python first",
        "failed: 1\n",
        "the command failed (exit status: 7), so no trace was written",
        "traces: 0\nhello from 42\n",
        "python: the command reads ",
        " chunks in 5 layers (",
        "traces: 5\n5\n{",
        "\"traced\":",
        "1 image verified, no problem found",
        "cannot be used: it is that of another index",
        "run parallax trace with the image, or remove the file",
        "verify: 1\n",
    ];
    for part in expected {
        ensure!(done.stdout.contains(part), "no {part:?}: {done:?}");
    }
    ensure!(done.stdout.ends_with("traces: 0\n"), "{done:?}");
    Ok(())
}
