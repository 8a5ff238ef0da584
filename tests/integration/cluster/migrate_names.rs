//! Names that images bring along, and images that cannot run: archives as `podman load` takes them, warnings of a configuration.

use std::fs;
use std::process::Command;

use anyhow::ensure;
use integration_tests::cluster::{Cluster, Done, repository};
use integration_tests::images;

tests! { cluster:
    archives_give_the_names_that_podman_load_gives,
    images_that_cannot_run_are_warned_of,
}

/// A directory of its own with a store in it, and a Podman with a storage in it.
const PRELUDE: &str = r#"
    work=$(mktemp -d) && cd "$work"
    trap 'umount -l root/overlay 2>/dev/null || true; cd /; rm -rf "$work"' EXIT
    parallax() { command parallax --store "$work/store" "$@"; }
    podman() { command podman --root "$work/root" --runroot "$work/run" "$@" </dev/null; }
    names() { parallax list --json | sed -n 's/^ *"\([^"]*\)",\{0,1\}$/\1/p' | sort; }
"#;

fn script(cluster: &Cluster, text: &str) -> anyhow::Result<Done> {
    cluster.run("ctl", "root", &["bash", "-euc", &format!("{PRELUDE}\n{text}")])?.success()
}

fn archives_give_the_names_that_podman_load_gives(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        # Podman and parallax give the images of an archive the same names.
        same() {
            podman rmi --all --force >/dev/null
            podman load --quiet --input "$2" >/dev/null
            podman images --format '{{.Repository}}:{{.Tag}}' | sort >by-podman
            rm -rf store; parallax migrate "$1:$2"; names >by-parallax
            echo "$1:$2: "$(cat by-parallax)
            cmp by-podman by-parallax
        }
        skopeo copy --quiet oci:/images/static docker-archive:one.tar:quay.io/a/app:1 \
            --additional-tag quay.io/b/other:2 --additional-tag localhost/app:3
        same docker-archive one.tar
        # As docker save writes a name of Docker Hub: Podman takes it for a local one.
        mkdir unpacked; tar -C unpacked -xf one.tar
        sed -i 's,quay.io/b/other:2,short:2,' unpacked/manifest.json
        tar -C unpacked -cf short.tar $(ls unpacked)
        same docker-archive short.tar
        gzip --keep short.tar; same docker-archive short.tar.gz

        podman load --quiet --input one.tar >/dev/null
        tar -C unpacked -c manifest.json | podman import --quiet - localhost/tiny:1 >/dev/null
        podman save --quiet --multi-image-archive --output many.tar quay.io/a/app:1 localhost/tiny:1
        podman save --quiet --format oci-archive --output oci.tar quay.io/a/app:1
        same docker-archive many.tar
        same oci-archive oci.tar

        only() { rm -rf store; parallax migrate "$1"; [ "$(names)" = "$2" ]; }
        only docker-archive:many.tar:localhost/tiny:1 localhost/tiny:1
        only docker-archive:one.tar:quay.io/b/other:2 quay.io/b/other:2
        ! parallax migrate docker-archive:many.tar --name mine 2>said || exit 1
        grep -q 'docker-archive:many.tar:@0, docker-archive:many.tar:@1' said
        parallax migrate docker-archive:many.tar:@1 --name mine
        parallax inspect mine >/dev/null

        # An archive without names is named by its file, as one that cannot be read is.
        sed -i 's/"RepoTags":\[[^]]*\]/"RepoTags":null/' unpacked/manifest.json
        tar -C unpacked -cf nameless.tar $(ls unpacked)
        only docker-archive:nameless.tar localhost/nameless:latest
        rm -rf store
        parallax migrate --json docker-archive:one.tar | tr -d ' \n'
        parallax migrate --json docker-archive:one.tar | grep '"unchanged": true'
    "#;
    let done = script(cluster, text)?;
    ensure!(done.stdout.contains("one.tar: localhost/app:3 quay.io/a/app:1 quay.io/b/other:2\n"), "{done:?}");
    ensure!(done.stdout.contains("short.tar.gz: localhost/app:3 localhost/short:2 quay.io/a/app:1\n"), "{done:?}");
    ensure!(done.stdout.contains("\"names\":[\"quay.io/a/app:1\","), "{done:?}");
    Ok(())
}

fn images_that_cannot_run_are_warned_of(cluster: &Cluster) -> anyhow::Result<()> {
    let made = cluster.shared().join("unrunnable");
    let python = Command::new("python3")
        .arg(repository().join("tests/integration/layouts.py"))
        .arg("unrunnable")
        .args([images::layout("static"), made.clone()])
        .output()?;
    let cases = Done::from(python).success()?.stdout;
    let text = r#"
        for case in $(ls /shared/unrunnable); do
            echo "== $case"
            parallax migrate oci:/shared/unrunnable/$case 2>&1
        done
        echo "== json"
        parallax migrate --json oci:/shared/unrunnable/entrypoint --name again 2>/dev/null
        echo "== well"
        parallax migrate oci:/images/static 2>&1
        parallax verify
    "#;
    let done = script(cluster, text);
    fs::remove_dir_all(made)?;
    let done = done?;
    let said = |case: &str| {
        let part = done.stdout.split("== ").find_map(|part| part.strip_prefix(case)?.strip_prefix('\n'));
        part.unwrap_or_default().to_owned()
    };
    for (case, words) in [
        ("entrypoint", "warning: localhost/entrypoint:latest: Entrypoint is \"/hello\", and must be a list of strings"),
        ("twice", "warning: localhost/twice:latest: the configuration has the key \"config\" more than once"),
        ("variable", "the variable LONG has 131077 bytes; the kernel takes less than 131072"),
        ("environment", "bytes; the kernel takes 2097152"),
        ("directory", "WorkingDir is \"work\", which is not an absolute path"),
        ("machine", "the image is for linux/s390x, not for this machine"),
    ] {
        ensure!(cases.lines().any(|made| made == case), "no {case}");
        let said = said(case);
        ensure!(said.contains(words) && said.contains(": migrated ("), "{case}: {said}");
    }
    ensure!(said("json").contains("\"warnings\": [\n      \"Entrypoint is"), "{done:?}");
    ensure!(!said("well").contains("warning"), "{done:?}");
    Ok(())
}
