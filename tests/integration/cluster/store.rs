//! Removing, tagging, verifying and tidying up, with Podman reading the store.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, Done, TEST_TIMEOUT, repository};
use integration_tests::held::HeldStep;
use integration_tests::load;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

tests! { cluster:
    a_tag_runs_until_it_is_removed,
    removing_gives_back_what_no_other_image_has,
    damage_is_found_and_the_remedy_helps,
    an_image_that_a_node_holds_is_not_removed,
    killed_on_the_way_podman_reads_the_store,
}

fn parallax(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<Done> {
    let mut line = vec!["parallax"];
    line.extend(arguments);
    cluster.run("ctl", "root", &line)
}

/// Runs a script with `podman` on n2 as u1, in which it may read other stores: `on STORE ARGUMENT…`.
fn podman(cluster: &Cluster, script: &str) -> anyhow::Result<Done> {
    let script = format!(
        "on() {{ store=$1; shift; podman --root /tmp/own --runroot /tmp/own-run --storage-opt additionalimagestore=$store \"$@\"; }}
        trap 'podman unshare rm -rf /tmp/own /tmp/own-run; podman system migrate' EXIT
        {script}"
    );
    let done = cluster.run("n2", "u1", &["bash", "-euc", &script]);
    cluster.shell("n2", "rm -rf /tmp/*1001* /home/u1/.local/share/containers /run/user/1001")?;
    done
}

fn a_tag_runs_until_it_is_removed(cluster: &Cluster) -> anyhow::Result<()> {
    let hello = || cluster.srun("u1", &["--parallax-image=tagged:1", "hello"]);
    parallax(cluster, &["tag", "static", "tagged:1"])?.success()?;
    ensure!(hello()?.success()?.stdout.contains("hello"), "the tag leads elsewhere");
    let images = "on /shared/store images --format '{{.Repository}}:{{.Tag}}'";
    ensure!(podman(cluster, images)?.success()?.stdout.contains("localhost/tagged:1"), "Podman does not see the tag");
    let done = parallax(cluster, &["rm", "tagged:1"])?.success()?;
    ensure!(done.stdout.contains("untagged") && !done.stdout.contains("removed"), "{done:?}");
    ensure!(hello()?.stderr.contains("is in no store"), "the tag still leads somewhere");
    let listed = podman(cluster, images)?.success()?.stdout;
    ensure!(!listed.contains("tagged") && listed.contains("localhost/static:latest"), "{listed}");
    cluster.srun("u1", &["--parallax-image=static", "hello"])?.success().map(drop)
}

fn removing_gives_back_what_no_other_image_has(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "
        trap 'rm -rf /shared/second' EXIT
        parallax() { command parallax --store /shared/second \"$@\"; }
        files() { find /shared/second/parallax/layers -name '*.squash' -type f | wc -l; }
        parallax migrate oci:/images/debian oci:/images/python oci:/images/static
        parallax list
        parallax rm python; echo files: $(files)
        parallax verify
        parallax rm debian static; echo files: $(files)
        parallax gc --grace 0
        find /shared/second -type f -printf '%P\\n' | sort
    ";
    let done = cluster.run("ctl", "root", &["bash", "-euc", script])?.success()?;
    // Debian's one layer is Python's base.
    let expected = [
        "files: 2\n",
        "files: 0\n",
        "saved by sharing",
        "2 images verified",
        "removed 6 things",
        "overlay-images/images.json\noverlay-images/images.lock\noverlay-layers/layers.json\noverlay-layers/layers.lock\n",
    ];
    for part in expected {
        ensure!(done.stdout.contains(part), "no {part:?}: {done:?}");
    }
    Ok(())
}

fn damage_is_found_and_the_remedy_helps(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "
        trap 'rm -rf /tmp/damaged' EXIT
        parallax() { command parallax --store /tmp/damaged \"$@\"; }
        parallax migrate oci:/images/static
        file=$(echo /tmp/damaged/parallax/layers/*.squash)
        printf x | dd of=$file bs=1 seek=3000 conv=notrunc status=none
        code=0; parallax verify --json || code=$?; echo code $code
        rm $file
        parallax migrate oci:/images/static && parallax verify static
    ";
    let done = cluster.run("ctl", "root", &["bash", "-euc", script])?.success()?;
    ensure!(done.stdout.contains("code 1\n") && done.stdout.contains("has changed: its SHA-256"), "{done:?}");
    ensure!(done.stdout.contains("1 image verified"), "{done:?}");
    Ok(())
}

/// Waits for one thing to happen in a directory.
struct Watch(OwnedFd);

impl Watch {
    fn new(directory: &Path) -> anyhow::Result<Self> {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&watch, directory, inotify::WatchFlags::CREATE | inotify::WatchFlags::DELETE)?;
        Ok(Self(watch))
    }

    fn wait(&self) -> anyhow::Result<()> {
        let mut ready = [PollFd::new(&self.0, PollFlags::IN)];
        let timeout = Timespec { tv_sec: i64::try_from(TEST_TIMEOUT.as_secs())?, tv_nsec: 0 };
        ensure!(poll(&mut ready, Some(&timeout))? == 1, "nothing happened");
        let mut buffer = [std::mem::MaybeUninit::uninit(); 512];
        inotify::Reader::new(&self.0, &mut buffer).next()?;
        Ok(())
    }
}

fn an_image_that_a_node_holds_is_not_removed(cluster: &Cluster) -> anyhow::Result<()> {
    let holds = Watch::new(&cluster.shared().join("store/parallax/holds"))?;
    let step = HeldStep::start(cluster, "u1", &["-w", "n1", "-n1", "--parallax-image=debian"], 1, "echo started")?;
    holds.wait()?;
    let listed = parallax(cluster, &["list", "--json"])?.success()?;
    let images: serde_json::Value = serde_json::from_str(&listed.stdout)?;
    let holders = |image: &serde_json::Value| image["in_use"].as_array().map_or(0, Vec::len);
    let in_use: usize = images.as_array().into_iter().flatten().map(holders).sum();
    ensure!(in_use == 1, "{images}");
    let id =
        images.as_array().into_iter().flatten().find(|image| holders(image) == 1).context("no image")?["id"].clone();
    let refused = parallax(cluster, &["rm", id.as_str().context("no id")?])?;
    ensure!(refused.code == 1 && refused.stderr.contains("steps use the image on n1"), "{refused:?}");
    step.finish()?;
    holds.wait()?;
    ensure!(fs::read_dir(cluster.shared().join("store/parallax/holds"))?.count() == 0, "a hold is left");
    Ok(())
}

/// A migration and a removal by real images, killed at every seventh of their operations (every third in large runs); the store's own tests take
/// each. The hook is compiled with debug assertions only, so the command is built for it.
fn killed_on_the_way_podman_reads_the_store(cluster: &Cluster) -> anyhow::Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["build", "--quiet", "--locked", "--package", "parallax-migrate-cli"])
        .current_dir(repository())
        .output()?;
    Done::from(output).success().context("a build of parallax with debug assertions")?;
    let directory = cluster.shared().join("killed");
    fs::create_dir_all(&directory)?;
    fs::copy(repository().join("target/debug/parallax"), directory.join("parallax"))?;
    let tested = kill_and_read(cluster);
    fs::remove_dir_all(directory)?;
    tested
}

fn kill_and_read(cluster: &Cluster) -> anyhow::Result<()> {
    let every = load::size(7, 3)?;
    let script = "
        cd /shared/killed
        mkdir before after
        on() { store=$1; shift; ./parallax --quiet --store $store \"$@\"; }
        on one migrate oci:/images/tiny --name kept
        cp -al one two
        on two migrate oci:/images/static
        for change in add remove; do
            for at in $(seq 1 EVERY 300); do
                store=before/$change-$at code=0
                case $change in
                    add) cp -al one $store; arguments='migrate oci:/images/static' ;;
                    remove) cp -al two $store; arguments='rm static' ;;
                esac
                PARALLAX_TEST_KILL_AT=$at on $store $arguments >/dev/null 2>&1 || code=$?
                [[ $code != 0 ]] || break
                [[ $code == 137 ]]
                cp -al $store after/
                on after/$change-$at gc --grace 0
                on after/$change-$at verify
                [[ -z $(ls after/$change-$at/parallax/tmp) ]]
            done
            echo $change $at
        done
    ";
    let script = script.replace("EVERY", &format!("{every}"));
    let done = cluster.run("ctl", "root", &["bash", "-euc", &script])?.success()?;
    let points = done.stdout.lines().filter_map(|line| line.split(' ').nth(1)?.parse::<u32>().ok());
    ensure!(points.clone().count() == 2 && points.into_iter().all(|at| (30..290).contains(&at)), "{done:?}");
    let script = "
        for store in /shared/killed/before/* /shared/killed/after/*; do
            names=$(on $store images --format '{{.Repository}}')
            case $names in
                localhost/kept) ;;
                *localhost/static*) on $store image inspect static kept >/dev/null ;;
                *) echo \"$store: $names\"; exit 1 ;;
            esac
        done
    ";
    podman(cluster, script)?.success().map(drop)
}
