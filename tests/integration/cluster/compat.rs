//! The Go tool's command line on real Podman storages, root's and a user's own.

use anyhow::ensure;
use integration_tests::cluster::{Cluster, Done};

tests! { cluster:
    roots_storage,
    a_users_own_storage,
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
