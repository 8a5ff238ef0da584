//! Stores that are missing when a step starts, and what the site wants then (`step.on_unreachable`).

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::thread;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, Done, TEST_TIMEOUT};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

use crate::cluster::backend::{CONFIG, with_config};
use crate::cluster::pull::{REGISTRY, Registry};
use crate::cluster::with_file;

tests! { cluster:
    a_store_that_is_not_there_is_named,
    a_store_is_waited_for,
    an_image_of_a_missing_store_is_pulled_if_told,
}

/// A directory without its mount, on n1 alone.
const LATE: &str = "/late";

fn config(keys: &str) -> String {
    format!("stores = [\"{LATE}\"]\n[step]\n{keys}\n")
}

/// Runs `body` while n1 has this configuration and an empty directory at [`LATE`].
fn with_late(cluster: &Cluster, keys: &str, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    cluster.shell("n1", &format!("mkdir {LATE}"))?;
    let result = with_config(cluster, "n1", &config(keys), body);
    cluster.shell("n1", &format!("umount {LATE} 2>/dev/null || true; rmdir {LATE}"))?;
    result
}

fn run(cluster: &Cluster) -> anyhow::Result<Done> {
    cluster.srun("u1", &["-w", "n1", "-n2", "--parallax-image=static", "hello"])
}

/// Makes sure that both tasks failed, with one line that ends so.
fn failed(done: &Done, reason: &str) -> anyhow::Result<()> {
    let told: Vec<&str> = done.stderr.lines().filter(|line| line.contains("parallax: ")).collect();
    ensure!(done.code != 0 && told.len() == 1 && told[0].ends_with(reason), "not {reason:?}: {done:?}");
    Ok(())
}

fn a_store_that_is_not_there_is_named(cluster: &Cluster) -> anyhow::Result<()> {
    with_late(cluster, "on_unreachable = \"error\"", || {
        let empty = "the store /late is empty; is its file system mounted?; tell the administrator";
        failed(&run(cluster)?, empty)?;
        cluster.shell("n1", &format!("rmdir {LATE}"))?;
        let done = run(cluster)?;
        cluster.shell("n1", &format!("mkdir {LATE}"))?;
        failed(&done, "the store /late cannot be read: No such file or directory (os error 2); tell the administrator")
    })?;
    with_late(cluster, "on_unreachable = \"wait:1\"", || {
        failed(&run(cluster)?, "is its file system mounted? (waited 1 s); tell the administrator")
    })
}

fn a_store_is_waited_for(cluster: &Cluster) -> anyhow::Result<()> {
    with_late(cluster, "on_unreachable = \"wait:59\"", || {
        let log = cluster.state().join("log/n1-agent.log");
        let before = fs::metadata(&log).with_context(|| log.display().to_string())?.len();
        thread::scope(|scope| {
            let step = scope.spawn(|| run(cluster));
            let waiting = wait_for_text(&log, before, "waiting for a store");
            cluster.shell("n1", &format!("mount --bind /shared/store {LATE}"))?;
            let done = step.join().map_err(|_| anyhow::anyhow!("the step panicked"))??.success()?;
            waiting?;
            ensure!(done.stdout.lines().count() == 2, "{done:?}");
            Ok(())
        })
    })
}

/// Waits, by inotify, until a log has a text after its first bytes.
fn wait_for_text(log: &Path, first: u64, text: &str) -> anyhow::Result<()> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, log, inotify::WatchFlags::MODIFY)?;
    let timeout = Timespec::try_from(TEST_TIMEOUT)?;
    loop {
        let mut file = File::open(log)?;
        file.seek(SeekFrom::Start(first))?;
        let mut new = String::new();
        file.read_to_string(&mut new)?;
        if new.contains(text) {
            return Ok(());
        }
        ensure!(poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&timeout))? > 0, "the log has no {text:?}: {new}");
        rustix::io::read(&watch, &mut [0_u8; 4096])?;
    }
}

/// The image that the job was submitted with, and no other; in podman mode nobody would compare.
fn an_image_of_a_missing_store_is_pulled_if_told(cluster: &Cluster) -> anyhow::Result<()> {
    let name = format!("{REGISTRY}/some/thing:1");
    let option = format!("--parallax-image={name}");
    let trusted = format!("[[registry]]\nlocation = \"{REGISTRY}\"\ninsecure = true\n");
    let trusted_at = cluster.path_on("n1", "/etc/containers/registries.conf.d/loopback.conf")?;
    let migrate = |image: &str| {
        let command =
            format!("rm -rf /shared/other; parallax migrate --store /shared/other --name {name} oci:/images/{image}");
        cluster.shell("ctl", &command).map(drop)
    };
    let registry = Registry::start(cluster)?;
    fs::write(&trusted_at, trusted)?;
    let of_login_node = "stores = [\"/shared/other\"]\n[step]\non_unreachable = \"pull\"\n";
    let result = with_file(cluster, "ctl", CONFIG, Some(of_login_node), || {
        with_late(cluster, "on_unreachable = \"pull\"", || {
            migrate("python")?;
            let done = cluster.srun("u1", &["-w", "n1", "-n2", &option, "test", "-e", "/opt/tool"])?.success()?;
            let notice = format!(
                "parallax: the image \"{name}\" cannot be looked up (the store {LATE} is empty; is its file system mounted?), so Podman \
                 pulls it"
            );
            ensure!(done.stderr.matches("parallax: ").count() == 1 && done.stderr.contains(&notice), "{done:?}");
            let podman = cluster.srun("u1", &["-w", "n1", "-n2", "--parallax-mode=podman", &option, "true"])?;
            failed(&podman, "is its file system mounted?; tell the administrator")?;
            migrate("static")?;
            let other = cluster.srun("u1", &["-w", "n1", &option, "true"])?;
            ensure!(other.code != 0 && other.stderr.contains("the registry has another image"), "{other:?}");
            Ok(())
        })
    });
    fs::remove_file(trusted_at)?;
    drop(registry);
    cluster.shell("ctl", "rm -rf /shared/other")?;
    result
}
