//! A store whose file system stops answering: a FUSE file system whose server is stopped.

use anyhow::ensure;
use integration_tests::cluster::Cluster;
use integration_tests::held::HeldStep;

use super::{failed_saying_once, faults, with_config};

faults! { Cluster:
    at_the_start = "the store hangs at a step's start",
    at_the_end = "the store hangs at a step's end",
    a_path_of_the_site = "a path of run.mounts hangs at a step's start",
    a_directory_for_podman = "a directory that is the image hangs in podman mode",
}

const CONFIG: &str = "stores = [\"/hanging\"]\n[step]\nstart_timeout = 3\nend_timeout = 3\n";

/// The cluster's store on n1 once more, through a FUSE file system; gone with this value.
struct FuseStore<'a>(&'a Cluster);

impl<'a> FuseStore<'a> {
    fn mount(cluster: &'a Cluster) -> anyhow::Result<Self> {
        cluster.shell("n1", "mkdir /hanging; fuse-overlayfs -o lowerdir=/shared/store /hanging")?;
        Ok(Self(cluster))
    }

    /// Has it answer no more.
    fn freeze(&self) -> anyhow::Result<()> {
        self.0.shell("n1", "kill -STOP $(pidof fuse-overlayfs)").map(drop)
    }

    /// Has it answer again.
    fn thaw(&self) -> anyhow::Result<()> {
        self.0.shell("n1", "kill -CONT $(pidof fuse-overlayfs)").map(drop)
    }
}

impl Drop for FuseStore<'_> {
    fn drop(&mut self) {
        let undo = "kill -CONT $(pidof fuse-overlayfs); umount --lazy /hanging; rmdir /hanging";
        if let Err(error) = self.0.shell("n1", undo) {
            eprintln!("{error:#}");
        }
    }
}

fn at_the_start(cluster: &Cluster) -> anyhow::Result<String> {
    let store = FuseStore::mount(cluster)?;
    let seen = with_config(cluster, CONFIG, || {
        store.freeze()?;
        let run = |image: &str| cluster.srun("u1", &["-w", "n1", "-n2", &format!("--parallax-image={image}"), "true"]);
        let (first, second, plain) = (run("debian"), run("python"), cluster.srun("u1", &["-w", "n1", "true"]));
        let status = cluster.agent_status("n1");
        store.thaw()?;
        plain?.success()?;
        status?;
        let reason = ["/hanging (fuse-overlayfs) does not respond", "tell the administrator"];
        failed_saying_once(&second?, &reason)?;
        let seen = failed_saying_once(&first?, &reason)?;
        run("debian")?.success()?;
        Ok(seen)
    });
    drop(store);
    seen
}

fn a_path_of_the_site(cluster: &Cluster) -> anyhow::Result<String> {
    let config = "stores = [\"/shared/store\"]\n[step]\nstart_timeout = 3\n[run]\nmounts = [\"/hanging/parallax\"]\n";
    let store = FuseStore::mount(cluster)?;
    let seen = with_config(cluster, config, || {
        store.freeze()?;
        let done = cluster.srun("u1", &["-w", "n1", "-n2", "--parallax-image=debian", "true"]);
        store.thaw()?;
        failed_saying_once(&done?, &["took too long", "/hanging/parallax on this node", "tell the administrator"])
    });
    drop(store);
    seen
}

fn a_directory_for_podman(cluster: &Cluster) -> anyhow::Result<String> {
    let config = "stores = [\"/shared/store\"]\n[step]\nstart_timeout = 3\n";
    let store = FuseStore::mount(cluster)?;
    let seen = with_config(cluster, config, || {
        store.freeze()?;
        let image = "--parallax-image=/hanging/parallax";
        let done = cluster.srun("u1", &["-w", "n1", "-n2", image, "--parallax-mode=podman", "true"]);
        store.thaw()?;
        failed_saying_once(&done?, &["/hanging/parallax took too long to answer", "tell the administrator"])
    });
    drop(store);
    seen
}

/// Reads all that a task still needs until its end: what it needs of a store that hangs it waits for in the kernel, and nobody can
/// end it.
const IN_MEMORY: &str =
    "cat /bin/sh /bin/cat /lib*/ld-linux* /lib/*-linux-gnu/libc.so.6 /etc/ld.so.cache >/dev/null 2>&1";

fn at_the_end(cluster: &Cluster) -> anyhow::Result<String> {
    let store = FuseStore::mount(cluster)?;
    let seen = with_config(cluster, CONFIG, || {
        let arguments = ["-w", "n1", "-n2", "--parallax-image=debian"];
        let step = HeldStep::start(cluster, "u1", &arguments, 2, &format!("{IN_MEMORY}; echo started"))?;
        store.freeze()?;
        let ended = step.finish();
        let left = integration_tests::clean::wait_for_no_lease(cluster, "n1");
        let mounts = cluster.shell("n1", "grep -h squashfs /proc/[0-9]*/mountinfo || true");
        store.thaw()?;
        ended?;
        left?;
        let mounts = mounts?;
        ensure!(mounts.is_empty(), "mounts are left while the store hangs: {mounts}");
        Ok("nothing: the step ends well".to_owned())
    });
    drop(store);
    seen
}
