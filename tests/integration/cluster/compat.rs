//! The Go tool's command line on real Podman storages, root's and a user's own.

use anyhow::ensure;
use integration_tests::cluster::{Cluster, Done};

tests! { cluster:
    roots_storage,
    a_users_own_storage,
    every_form_of_a_name_that_podman_takes,
    options_for_mksquashfs_are_kept,
    mistakes_are_told_as_scripts_know_them,
}

/// Makes sure that all these parts come in this order.
fn in_order(done: &Done, parts: &[&str]) -> anyhow::Result<()> {
    let mut rest = done.stdout.as_str();
    for part in parts {
        let at = rest.find(part).ok_or_else(|| anyhow::anyhow!("no {part:?} where it should be: {done:?}"))?;
        rest = &rest[at + part.len()..];
    }
    Ok(())
}

fn roots_storage(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "
        trap 'skopeo delete containers-storage:localhost/stored:1; rm -rf /shared/compat' EXIT
        skopeo copy --quiet oci:/images/static containers-storage:localhost/stored:1
        mkdir /shared/compat
        old() { parallax --podmanRoot /var/lib/containers/storage --roStoragePath=/shared/compat \"$@\"; echo code $?; }
        old --migrate --image stored:1
        old -migrate -image localhost/stored:1
        parallax --store /shared/compat list
        parallax --store /shared/compat verify
        old --rmi --image=stored:1
        old --rmi --image stored:1
        old --migrate --image stored:1 --mksquashfs-opts '-comp zstd -Xcompression-level 1 -e a' --log-level warn
        parallax --store /shared/compat list
    ";
    let done = cluster.run("ctl", "root", &["bash", "-uc", script])?;
    in_order(
        &done,
        &[
            "level=info msg=\"Starting migration for image: stored:1\"",
            "level=info msg=\"Migration successfully completed for image: ",
            "code 0\n",
            "msg=\"Image already migrated. Nothing to do.\"",
            "code 0\n",
            "localhost/stored:1",
            "1 image verified",
            "msg=\"Starting removal of image: stored:1\"",
            "msg=\"Removal successfully completed for image: stored:1\"",
            "code 0\n",
            "level=error msg=\"Could not locate image stored:1: Image not found",
            "code 0\n",
            "level=warning msg=\"mksquashfs-opts without effect on layers: -e a\"",
            "code 0\n",
            "localhost/stored:1",
        ],
    )
}

fn a_users_own_storage(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "
        skopeo copy --quiet oci:/images/python containers-storage:localhost/mine:1
        mkdir store
        old() { parallax --podmanRoot $HOME/.local/share/containers/storage --roStoragePath $HOME/store \"$@\"; echo code $?; }
        old --migrate --image mine:1
        old --migrate --image mine:1
        parallax --store $HOME/store verify
        old --rmi --image mine:1
        rm -rf store
    ";
    let done = cluster.run("ctl", "u1", &["bash", "-uc", script])?;
    let clear = "podman unshare rm -rf .local; podman system migrate; rm -rf .config .local";
    cluster.run("ctl", "u1", &["sh", "-c", clear])?;
    in_order(
        &done,
        &[
            "Migration successfully completed",
            "code 0\n",
            "Nothing to do.",
            "code 0\n",
            "1 image verified",
            "Removal successfully completed",
            "code 0\n",
        ],
    )
}

/// Podman, the old command line and `migrate` find the same image of a storage by each form of a name, or all of them none.
fn every_form_of_a_name_that_podman_takes(cluster: &Cluster) -> anyhow::Result<()> {
    let script = r#"
        work=$(mktemp -d) && cd "$work"
        conf=/etc/containers/registries.conf.d/zz-test.conf
        trap 'rm -f $conf; umount -l root/overlay 2>/dev/null || true; cd /; rm -rf "$work"' EXIT
        podman() { command podman --root "$work/root" --runroot "$work/run" "$@" </dev/null; }
        made() { echo "$1" >name; tar -c name | podman import --quiet - "$1" >made; shift; for name; do podman tag $(tail -c 65 made) $name; done; }
        first_id() { sed -n "s/$1/\1/p" | head -n 1 | grep . || echo none; }
        same() {
            local by_podman by_old by_new
            by_podman=$(podman image inspect --format '{{.Id}}' "$1" 2>/dev/null | grep . || echo none)
            rm -rf old new; mkdir old
            by_old=$(parallax --podmanRoot root --roStoragePath old --migrate --image "$1" | first_id '.*completed for image: \([0-9a-f]*\)".*')
            by_new=$(parallax --store new migrate --json --podman-root root "containers-storage:$1" 2>/dev/null | first_id '.*"id": "\(.*\)",')
            echo "$1 $2: $by_podman $by_old $by_new"
            [ "$by_podman $by_podman" = "$by_old $by_new" ] && [ "$2" = $([ $by_podman = none ] && echo none || echo found) ]
        }
        made docker.io/library/alpine:3.22.1 docker.io/library/alpine:latest
        alpine=$(tail -c 65 made)
        made registry.example.org/group/tool:1
        for searched in '' '"docker.io"' '"quay.io", "registry.example.org"'; do
            printf 'unqualified-search-registries = [%s]
short-name-mode = "enforcing"
[aliases]
"nick" = "registry.example.org/group/tool"
' "$searched" >$conf
            for name in alpine alpine:latest alpine:3.22.1 docker.io/alpine:3.22.1 docker.io/library/alpine:3.22.1 nick:1 tool:1; do
                same $name found
            done
            same nick none; same alpine:3.22 none; same registry.example.org/tool:1 none
        done
        same library/alpine found; same group/tool:1 found
        # What is stored is found by what was typed, and goes by it.
        parallax --podmanRoot root --roStoragePath old --migrate --image alpine:3.22.1
        parallax --store old list
        parallax --podmanRoot root --roStoragePath old --migrate --image alpine:3.22.1 | grep 'Nothing to do'
        parallax --podmanRoot root --roStoragePath old --rmi --image alpine:3.22.1 | grep 'Removal successfully'
        # Local images come before those of registries, and an alias before both.
        made localhost/alpine:latest; made localhost/nick:1
        same alpine found; same nick:1 found; same $alpine found; same ${alpine:0:12} found
        parallax --store ids migrate --podman-root root containers-storage:${alpine:0:12}
        parallax --store ids list
    "#;
    let done = cluster.run("ctl", "root", &["bash", "-euc", script])?.success()?;
    for part in ["docker.io/library/alpine:3.22.1", "localhost/alpine:3.22.1", "docker.io/library/alpine:latest"] {
        ensure!(done.stdout.contains(part), "no {part}: {done:?}");
    }
    Ok(())
}

fn options_for_mksquashfs_are_kept(cluster: &Cluster) -> anyhow::Result<()> {
    let script = r#"
        work=$(mktemp -d) && cd "$work"
        trap 'skopeo delete containers-storage:localhost/stored:1; cd /; rm -rf "$work"' EXIT
        skopeo copy --quiet oci:/images/static containers-storage:localhost/stored:1
        with() {
            rm -rf store; mkdir store
            code=0
            parallax --podmanRoot /var/lib/containers/storage --roStoragePath store --migrate --image stored:1 --mksquashfs-opts "$1" >said || code=$?
            echo "== $1: $code"; cat said
            unsquashfs -s store/parallax/layers/*.squash 2>/dev/null | grep -iE '^(Compression|Block size|Data|Fragments)|compression-level|-Xhc' || true
        }
        with '-noappend -comp zstd -Xcompression-level 3 -noD -no-xattrs -e security.capability'
        with '-noD -Xcompression-level 5 -comp zstd'
        with '-comp zstd -Xcompression-level 7 -b 64K'
        with "-comp 'gzip' -Xcompression-level \"6\""
        with '-comp lz4 -Xhc'
        with '-comp xz'
        with '-comp zstd -Xcompression-level 23'
        with '-comp lzma'
        with '-Xnonsense 3 -comp lz4'
    "#;
    let done = cluster.run("ctl", "root", &["bash", "-euc", script])?.success()?;
    let said = |options: &str| {
        let part = done.stdout.split("== ").find_map(|part| part.strip_prefix(options)?.strip_prefix(": "));
        part.unwrap_or_default().to_lowercase()
    };
    for (options, parts) in [
        (
            "-noappend -comp zstd -Xcompression-level 3 -noD -no-xattrs -e security.capability",
            &[
                "0\n",
                "compression zstd",
                "compression-level 3",
                "data is uncompressed",
                "fragments are compressed",
                "without effect on layers: -no-xattrs -e security.capability",
            ][..],
        ),
        ("-noD -Xcompression-level 5 -comp zstd", &["compression-level 5", "data is uncompressed"]),
        ("-comp zstd -Xcompression-level 7 -b 64K", &["compression-level 7", "data is compressed", "block size 65536"]),
        ("-comp 'gzip' -Xcompression-level \"6\"", &["compression gzip", "compression-level 6"]),
        ("-comp lz4 -Xhc", &["compression lz4", "-xhc"]),
        ("-comp xz", &["0\n", "compression xz"]),
        ("-comp zstd -Xcompression-level 23", &["1\n", "levels of zstd are 1 to 22"]),
        ("-comp lzma", &["1\n", "lzma is not supported; there are zstd"]),
        ("-Xnonsense 3 -comp lz4", &["0\n", "without effect on layers: -xnonsense 3", "compression lz4"]),
    ] {
        for part in parts {
            ensure!(said(options).contains(part), "{options}: no {part:?}: {done:?}");
        }
    }
    Ok(())
}

fn mistakes_are_told_as_scripts_know_them(cluster: &Cluster) -> anyhow::Result<()> {
    for (line, code, says) in [
        ("--image a", 2, "Must specify either -migrate or -rmi"),
        ("--migrate", 2, "Must specify -image image"),
        (
            "--migrate --image a --podmanRoot /none",
            2,
            "podmanRoot. Podman root directory: stat /none: no such file or directory",
        ),
        ("-rmi -image a -podmanRoot / -roStoragePath /none", 2, "roStoragePath. Read-only storage path: stat /none"),
        (
            "--migrate --image a --podmanRoot / --roStoragePath /tmp --mksquashfs-opts '-comp `touch /tmp/executed`'",
            2,
            "invalid mksquashfs-opts: commands in backticks are not executed",
        ),
        (
            "--migrate --image a --podmanRoot / --roStoragePath /usr",
            1,
            "Storage validation failed before migration: storage validation failed",
        ),
        (
            "--migrate --image none:1 --podmanRoot /var/lib/containers/storage --roStoragePath /shared/store",
            1,
            "Migration failed for image 'none:1': Image not found: ",
        ),
        ("--migrate --version", 0, "Parallax version: "),
        ("-version", 0, "Parallax version: "),
        ("--version | head -n 1 | sed -n 's/^Parallax version: [0-9][0-9.]*$/of the Go tool/p'", 0, "of the Go tool"),
        ("--version | sed -n 's/^parallax [0-9][0-9.]*$/of any command/p'", 0, "of any command"),
        ("-help", 0, "OCI image migration tool"),
        ("--migrate --help", 0, "--podmanRoot"),
    ] {
        let done = cluster.run(
            "ctl",
            "root",
            &["bash", "-uc", &format!("mkdir -p /var/lib/containers/storage; parallax {line} 2>&1")],
        )?;
        ensure!(done.code == code && done.stdout.contains(says), "{line}: {done:?}");
    }
    ensure!(cluster.run("ctl", "root", &["test", "-e", "/tmp/executed"])?.code == 1, "it was executed");
    Ok(())
}
