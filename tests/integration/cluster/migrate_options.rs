//! How images are stored: as one layer, otherwise compressed, many at once; and what is said meanwhile.

use std::process::Command;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, Done, repository};

tests! { cluster:
    a_flattened_image_is_the_same_to_those_who_run_it,
    compression_is_what_was_asked_for,
    the_same_layer_gives_the_same_bytes,
    many_sources_share_what_they_convert,
    verify_compares_contents,
    progress_for_programs_is_json_and_a_terminal_gets_bars,
}

/// A directory of its own, and a store in it.
const PRELUDE: &str = r#"
    work=$(mktemp -d) && cd "$work"
    trap 'cd /; rm -rf "$work"' EXIT
    parallax() { command parallax --store "$work/store" "$@"; }
"#;

fn script(cluster: &Cluster, text: &str) -> anyhow::Result<Done> {
    cluster.run("ctl", "root", &["bash", "-euc", &format!("{PRELUDE}\n{text}")])?.success()
}

/// Every file with its kind, mode, owner, size, link target, number of links, time, attributes and content.
const WALK: &str = r"
    find / -mindepth 1 -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /home -o -path /tmp -o -path /etc \) -prune \
        -o ! -name mtab -printf '%p %y %m %U:%G %l %T@' \( -type d -printf '\n' -o -printf ' %s %n\n' \)
    find /usr /opt /var -xdev -type f -exec sha256sum {} +
";

fn a_flattened_image_is_the_same_to_those_who_run_it(cluster: &Cluster) -> anyhow::Result<()> {
    let parallax = |arguments: &[&str]| {
        let mut line = vec!["parallax"];
        line.extend(arguments);
        cluster.run("ctl", "root", &line)?.success()
    };
    parallax(&["migrate", "oci:/images/python", "--flatten", "--name", "flat:1"])?;
    let again = parallax(&["migrate", "oci:/images/python", "--flatten", "--name", "flat:1"])?;
    ensure!(again.stderr.contains("nothing to do"), "{again:?}");
    // Both are there, and both are whole.
    parallax(&["verify", "python", "flat:1"])?;
    let walk = |image: &str| {
        let done = cluster.srun("u1", &[&format!("--parallax-image={image}"), "sh", "-c", WALK])?;
        let mut lines: Vec<String> = done.stdout.lines().map(str::to_owned).collect();
        lines.sort();
        ensure!(lines.len() > 1000, "{image}: {done:?}");
        anyhow::Ok(lines)
    };
    let (layered, flat) = (walk("python")?, walk("flat:1")?);
    let different =
        layered.iter().filter(|line| !flat.contains(line)).chain(flat.iter().filter(|line| !layered.contains(line)));
    let different: Vec<&String> = different.take(20).collect();
    ensure!(different.is_empty(), "{different:#?}");

    // Podman takes it for an image like any other, on the node and in a step, and through the mount program.
    let podman = "podman --root /tmp/own --runroot /tmp/own-run --storage-opt additionalimagestore=/shared/store";
    let inspect = format!(
        "{podman} image inspect flat:1 --format '{{{{len .RootFS.Layers}}}} {{{{.User}}}} {{{{len .History}}}}'; \
         {podman} history --no-trunc flat:1; podman unshare rm -rf /tmp/own /tmp/own-run"
    );
    let done = cluster.run("n2", "u1", &["sh", "-euc", &inspect])?.success()?;
    ensure!(done.stdout.starts_with("1 app 6\n") && done.stdout.contains("parallax migrate --flatten"), "{done:?}");
    let through = "podman --root /tmp/own --runroot /tmp/own-run --storage-opt additionalimagestore=/shared/store \
                   --storage-opt mount_program=/usr/libexec/parallax/parallax-mount-program \
                   run --rm --network=host --cgroups=disabled flat:1 cat /etc/os-release; code=$?; \
                   podman unshare rm -rf /tmp/own /tmp/own-run; podman system migrate; exit $code";
    let done = cluster.run("n2", "u1", &["sh", "-uc", through])?.success()?;
    ensure!(done.stdout.contains("Debian"), "{done:?}");
    cluster.shell("n2", "rm -rf /tmp/*1001* /home/u1/.local/share/containers /run/user/1001")?;
    let step =
        ["--parallax-image=flat:1", "--parallax-mode=podman", "podman", "run", "--rm", "flat:1", "python3", "-V"];
    ensure!(cluster.srun("u1", &step)?.success()?.stdout.contains("Python 3"), "in a step");
    parallax(&["rm", "flat:1"])?;
    cluster.srun("u1", &["--parallax-image=python", "true"])?.success().context("the layers").map(drop)
}

fn compression_is_what_was_asked_for(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        form() { unsquashfs -s store/parallax/layers/*.squash | grep -iE '^(Compression|Block size|Data)' ; }
        for method in zstd:1 lz4 gzip none; do
            rm -rf store
            parallax --quiet migrate oci:/images/static --compression $method --block-size 64KiB
            echo "$method: "$(form)
        done
        parallax migrate oci:/images/static --compression lz4 --name other
        for bad in zstd:30 lzo gzip:10 ''; do ! parallax migrate oci:/images/static --compression "$bad" 2>>bad || exit 1; done
        ! parallax migrate oci:/images/static --block-size 100KB 2>>bad
        ! parallax migrate oci:/images/static --max-memory 1MB 2>>bad
        cat bad
    "#;
    let done = script(cluster, text)?;
    let expected = [
        "zstd:1: Compression zstd",
        "lz4: Compression lz4",
        "gzip: Compression gzip",
        "Block size 65536",
        "levels of zstd are 1 to 22",
        "must be a power of two from 4KiB",
        "not enough for one layer",
    ];
    for part in expected {
        ensure!(done.stdout.contains(part), "no {part:?}: {done:?}");
    }
    ensure!(done.stderr.contains("already in the store (none, blocks of 64 KiB), which is kept"), "{done:?}");
    Ok(())
}

fn the_same_layer_gives_the_same_bytes(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r"
        sums() { (cd store/parallax/layers; sha256sum *.squash); }
        parallax migrate oci:/images/python; sums >one; rm -rf store
        parallax migrate oci:/images/python --jobs 1 --processors 1 --max-memory 100MB; sums >two; rm -rf store
        cmp one two
        parallax migrate oci:/images/python --flatten; sums >one; rm -rf store
        parallax migrate oci:/images/python --flatten --max-memory 100MB; sums >two
        cmp one two
    ";
    script(cluster, text).map(drop)
}

fn many_sources_share_what_they_convert(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r"
        parallax --quiet migrate --json oci:/images/{debian,python,static,layers40} oci:/nonexistent >said || echo code $?
        cat said; echo files: $(ls store/parallax/layers/*.squash | wc -l)
        parallax verify; ls store/parallax/tmp
        ! parallax migrate oci:/images/debian oci:/images/debian:latest
    ";
    let done = script(cluster, text)?;
    ensure!(done.stdout.contains("code 1") && done.stdout.contains("4 images verified"), "{done:?}");
    let number = |line: &str, key: &str| line.trim().strip_prefix(key)?.trim_end_matches(',').parse::<u64>().ok();
    let new: u64 = done.stdout.lines().filter_map(|line| number(line, "\"new_layers\": ")).sum();
    let files = done.stdout.lines().find_map(|line| number(line, "files: ")).context("no files")?;
    ensure!(new == files && files > 40, "{new} layers were converted, {files} are there: {done:?}");
    ensure!(done.stderr.contains("would both be stored under one name"), "{done:?}");
    Ok(())
}

/// On this machine: a file that was packed anew from something else, with a description to match, is as it was written, and
/// yet not what the layer held.
fn verify_compares_contents(cluster: &Cluster) -> anyhow::Result<()> {
    let directory = tempfile::tempdir_in(cluster.shared())?;
    let program = repository().join("target/release/parallax");
    let text = r#"
        cd "$1"
        parallax() { "$program" --store store "$@"; }
        program=$2 images=$3
        parallax migrate oci:$images/python oci:$images/layers40; parallax migrate --flatten oci:$images/python --name flat
        parallax verify --deep
        file=$(ls -S store/parallax/layers/*.squash | sed -n 3p); old=$(sha256sum <$file | cut -c1-64); size=$(stat -c %s $file)
        mkdir tree; echo other >tree/file; rm $file; mksquashfs tree $file -quiet -no-progress >/dev/null
        new=$(sha256sum <$file | cut -c1-64)
        sed -i "s/$old/$new/; s/\"squashfs_size\":$size\b/\"squashfs_size\":$(stat -c %s $file)/" store/parallax/layers/*.json store/parallax/images/*.json
        parallax verify && echo shallow
        parallax verify --deep || echo deep $?
    "#;
    let mut command = Command::new("bash");
    command.args(["-euc", text, "bash"]).args([directory.path(), &program, &repository().join("target/images")]);
    let done = Done::from(command.output()?).success()?;
    let expected = ["3 images verified, no problem found", "shallow", "does not hold what the layer held", "deep 1"];
    for part in expected {
        ensure!(done.stdout.contains(part), "no {part:?}: {done:?}");
    }
    Ok(())
}

fn progress_for_programs_is_json_and_a_terminal_gets_bars(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r"
        parallax --log-format json migrate oci:/images/debian oci:/nonexistent 2>lines || true
        cat lines; rm -rf store
        parallax --quiet migrate oci:/images/debian 2>quiet; [ ! -s quiet ]; rm -rf store
        # A terminal of its own.
        script --quiet --return --command 'parallax --store store migrate oci:/images/debian' typescript >/dev/null
        tr '\r' '\n' <typescript >&2
    ";
    let done = script(cluster, text)?;
    let mut events = Vec::new();
    for line in done.stdout.lines() {
        let value: serde_json::Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        events.push(value["event"].as_str().or(value["level"].as_str()).unwrap_or_default().to_owned());
    }
    for event in ["layer-start", "layer", "image", "ERROR"] {
        ensure!(events.iter().any(|known| known == event), "no {event}: {done:?}");
    }
    ensure!(done.stderr.contains("MB/s") && done.stderr.contains("left"), "no bars: {done:?}");
    Ok(())
}
