//! Images that Podman takes and that are odd: entries without their directories, names that lead through links, owners beyond
//! any range, an opaque root, many hard links.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, Done, repository};
use integration_tests::images;

tests! { cluster:
    implied_directories_are_those_of_the_layers_below,
    a_layer_over_two_parents_is_right_over_both,
    names_mean_what_they_mean_to_podman,
    an_opaque_root_hides_all_that_is_below,
    owners_beyond_any_range_are_nobody,
    owners_beyond_any_range_are_squashed,
    layers_with_hard_links_are_compared,
}

/// Runs `body` with the images in `/shared/odd`.
fn with_images(cluster: &Cluster, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let odd = cluster.shared().join("odd");
    if odd.exists() {
        fs::remove_dir_all(&odd)?;
    }
    let mut script = Command::new("python3");
    script.arg(repository().join("tests/integration/odd_layers.py"));
    script.args([images::layout("debian"), images::layout("static"), odd.clone()]);
    Done::from(script.output()?).success()?;
    let result = body();
    fs::remove_dir_all(odd)?;
    result
}

fn parallax(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<Done> {
    let mut line = vec!["parallax"];
    line.extend(arguments);
    cluster.run("ctl", "root", &line)?.success()
}

/// Runs `body` while the store has the image of a case, `odd-CASE`.
pub(super) fn with_case(
    cluster: &Cluster,
    case: &str,
    body: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    with_images(cluster, || {
        migrate(cluster, case, &[])?;
        let result = body();
        remove(cluster, case)?;
        result
    })
}

/// Migrates the image of a case in one way, runs a step with it, and removes it.
fn step(cluster: &Cluster, case: &str, options: &[&str], user: &str, command: &str) -> anyhow::Result<Done> {
    migrate(cluster, case, options)?;
    let done = cluster.srun(user, &["-N1", &format!("--parallax-image=odd-{case}"), "sh", "-c", command]);
    verify(cluster)?;
    remove(cluster, case)?;
    done
}

/// Compares all that is in the store with what was migrated. On this machine: the nodes have no squashfs-tools-ng.
fn verify(cluster: &Cluster) -> anyhow::Result<()> {
    let mut command = Command::new(repository().join("target/release/parallax"));
    command.arg("--store").arg(cluster.shared().join("store")).args(["verify", "--deep"]);
    Done::from(command.output()?).success().map(drop)
}

fn migrate(cluster: &Cluster, case: &str, options: &[&str]) -> anyhow::Result<Done> {
    let (source, name) = (format!("oci:/shared/odd/{case}"), format!("odd-{case}"));
    let mut line = vec!["migrate", &source, "--name", &name];
    line.extend(options);
    parallax(cluster, &line)
}

fn remove(cluster: &Cluster, case: &str) -> anyhow::Result<()> {
    parallax(cluster, &["rm", "--force", &format!("odd-{case}")]).map(drop)
}

const ATTRIBUTES: &str = "stat -c '%n %a %u:%g' / /root /var/mail /new /new/dir";

fn implied_directories_are_those_of_the_layers_below(cluster: &Cluster) -> anyhow::Result<()> {
    let expected = "/ 755 0:0\n/root 700 0:0\n/var/mail 2775 0:8\n/new 755 0:0\n/new/dir 755 0:0\n";
    with_images(cluster, || {
        for options in [&[][..], &["--flatten"]] {
            let done = step(cluster, "implied", options, "u1", ATTRIBUTES)?.success()?;
            ensure!(done.stdout == expected, "{options:?}: {done:?}");
            // A step's /tmp is the node's.
            migrate(cluster, "implied", options)?;
            let podman = "podman run --rm --network=host odd-implied sh -c 'stat -c %a:%u:%g /tmp && readlink /tmp/link && mktemp'";
            let line = ["-N1", "--parallax-image=odd-implied", "--parallax-mode=podman", "sh", "-c", podman];
            let done = cluster.srun("u1", &line)?.success()?;
            ensure!(done.stdout.starts_with("1777:0:0\n/etc/motd\n/tmp/"), "{options:?}: {done:?}");
            remove(cluster, "implied")?;
        }
        Ok(())
    })
}

/// One layer, one diffID, two images: whichever is migrated first, both show what lies below.
fn a_layer_over_two_parents_is_right_over_both(cluster: &Cluster) -> anyhow::Result<()> {
    const CASES: [&str; 2] = ["implied", "implied-over-another"];
    const SCRIPT: &str = "stat -c '%a %u:%g' /tmp; readlink /tmp/link";
    with_images(cluster, || {
        for order in [CASES, [CASES[1], CASES[0]]] {
            for case in order {
                migrate(cluster, case, &[])?;
            }
            let stored = || cluster.shell("ctl", "cd /shared/store && find . -type f -o -type l | sort");
            let before = stored()?;
            for case in CASES {
                ensure!(migrate(cluster, case, &[])?.stderr.contains("nothing to do"), "{case}");
            }
            ensure!(stored()? == before, "the store has changed");
            for (case, tmp) in CASES.into_iter().zip(["1777 0:0", "711 7:8"]) {
                let image = format!("--parallax-image=odd-{case}");
                let done = cluster.srun("u1", &["-N1", &image, "stat", "-c", "%a %u:%g", "/new/dir"])?.success()?;
                ensure!(done.stdout == "755 0:0\n", "{order:?}: {case}: {done:?}");
                let podman = "podman run --rm --network=host";
                let line = format!("{podman} odd-{case} sh -c \"{SCRIPT}\"");
                let done =
                    cluster.srun("u1", &["-N1", &image, "--parallax-mode=podman", "sh", "-c", &line])?.success()?;
                ensure!(done.stdout == format!("{tmp}\n/etc/motd\n"), "{order:?}: {case}: {done:?}");
            }
            verify(cluster)?;
            for case in order {
                remove(cluster, case)?;
            }
            let left = parallax(cluster, &["gc", "--dry-run"])?;
            ensure!(!left.stdout.contains("odd") && !left.stdout.contains("overlay"), "{left:?}");
        }
        Ok(())
    })
}

fn names_mean_what_they_mean_to_podman(cluster: &Cluster) -> anyhow::Result<()> {
    const SCRIPT: &str = "cd /; cat app/absolute up b real/dir/file real/inside; readlink way out; \
                          stat -c %h way/linked; test way/linked -ef real/dir/file && echo same";
    with_images(cluster, || {
        let odd = "set -e; export XDG_RUNTIME_DIR=$(mktemp -d); cd $XDG_RUNTIME_DIR; \
                   p() { podman --root $PWD/graph --runroot $PWD/run \"$@\"; }; \
                   p pull -q oci:/shared/odd/names >id; p run --rm --network=host $(cat id) sh -c \"$0\"; \
                   podman unshare rm -rf graph run; rm -rf $XDG_RUNTIME_DIR";
        let podmans = cluster.run("n1", "u1", &["sh", "-c", odd, SCRIPT])?;
        for options in [&[][..], &["--flatten"]] {
            let done = step(cluster, "names", options, "u1", SCRIPT)?.success()?;
            ensure!(done.stdout == "12345real/dir\n../../../real\n2\nsame\n", "{options:?}: {done:?}");
            ensure!(podmans.code == 0 && podmans.stdout == done.stdout, "{podmans:?}\n{done:?}");
        }
        Ok(())
    })
}

fn an_opaque_root_hides_all_that_is_below(cluster: &Cluster) -> anyhow::Result<()> {
    with_images(cluster, || {
        for options in [&[][..], &["--flatten"]] {
            migrate(cluster, "root-opaque", options)?;
            let image = "--parallax-image=odd-root-opaque";
            let done = cluster.srun("u1", &["-N1", image, "hello"])?.success()?;
            ensure!(done.stdout.contains("hello"), "{done:?}");
            let list = "id=$(podman create odd-root-opaque hello) && podman export $id | tar -t";
            let done = cluster.srun("u1", &["-N1", image, "--parallax-mode=podman", "sh", "-c", list])?.success()?;
            let names: Vec<&str> = done.stdout.lines().collect();
            ensure!(names.contains(&"etc/kept"), "{options:?}: {done:?}");
            let base = ["usr/bin/", "bin", "etc/debian_version", "var/lib/dpkg/"];
            ensure!(!names.iter().any(|name| base.contains(name)), "{options:?}: {done:?}");
            verify(cluster)?;
            remove(cluster, "root-opaque")?;
        }
        Ok(())
    })
}

const ODD: &str = "1516583083";

fn owners_beyond_any_range_are_nobody(cluster: &Cluster) -> anyhow::Result<()> {
    with_images(cluster, || {
        let said = migrate(cluster, "owners", &[])?.stderr;
        ensure!(["/opt/odd", ODD, "--squash-owners"].iter().all(|part| said.contains(part)), "{said}");
        let script = "stat -c %u:%g /opt/odd /opt/usual && cat /opt/odd /opt/usual";
        let expected = "65534:65534\n33:33\noddusual";
        let done = cluster.srun("u1", &["-N1", "--parallax-image=odd-owners", "sh", "-c", script])?.success()?;
        ensure!(done.stdout == expected, "{done:?}");
        let podman = format!("podman run --rm --network=host odd-owners sh -c '{script}'");
        let line = ["-N1", "--parallax-image=odd-owners", "--parallax-mode=podman", "sh", "-c", &podman];
        let done = cluster.srun("u1", &line)?.success()?;
        ensure!(done.stdout == expected, "{done:?}");
        // Who has no ids at all is asked for what an administrator can give.
        let done = cluster.srun("u3", &["-N1", "--parallax-image=odd-owners", "true"])?;
        ensure!(done.code != 0 && done.stderr.contains("add a range of 65536 to /etc/subuid"), "{done:?}");
        ensure!(!done.stderr.contains(ODD), "{done:?}");
        remove(cluster, "owners")
    })
}

fn owners_beyond_any_range_are_squashed(cluster: &Cluster) -> anyhow::Result<()> {
    with_images(cluster, || {
        for options in [&["--squash-owners"][..], &["--squash-owners", "--flatten"]] {
            let script = "stat -c %u:%g /opt/odd /opt/usual";
            let done = step(cluster, "owners", options, "u1", script)?.success()?;
            ensure!(done.stdout == "0:0\n33:33\n", "{options:?}: {done:?}");
        }
        // A layer that is there with other owners is kept, and that is said.
        migrate(cluster, "owners", &[])?;
        let again = parallax(cluster, &["migrate", "oci:/shared/odd/owners", "--name", "odd-2", "--squash-owners"])?;
        ensure!(again.stderr.contains("which are kept"), "{again:?}");
        parallax(cluster, &["rm", "odd-2"])?;
        remove(cluster, "owners")
    })
}

/// A mksquashfs with the defect, made to show it: what it is given is changed on the way as the defect would.
fn layers_with_hard_links_are_compared(cluster: &Cluster) -> anyhow::Result<()> {
    with_images(cluster, || {
        let done =
            step(cluster, "links", &[], "u1", "cd /links; ls | wc -l; tail -n1 l7 f199; stat -c %h 7")?.success()?;
        ensure!(done.stdout.contains("600\n") && done.stdout.ends_with("\n2\n"), "{done:?}");
        // Whatever else it has to say of a login node.
        let version = cluster.run("ctl", "root", &["parallax", "doctor", "--json"])?;
        let real = cluster.shell("ctl", "mksquashfs -version | head -n1")?;
        let number = real.split_whitespace().nth(2).context("no version")?;
        ensure!(version.stdout.contains(&format!("mksquashfs {number}")), "{number}: {version:?}");
        let script = r#"
            work=$(mktemp -dp "$1"); trap 'rm -rf $work' EXIT; program=$2
            printf '%s\n' '#!/bin/sh' \
                'case $1 in -version) echo "mksquashfs version 4.7.5 (2025/10/01)"; exit;; esac' \
                'sed s/after.7/wrong.7/ | exec /usr/bin/mksquashfs "$@"' >$work/mksquashfs
            chmod +x $work/mksquashfs
            code=0
            PATH=$work:$PATH "$program" --store $work/store migrate "oci:$1/odd/links" >$work/said 2>&1 || code=$?
            cat $work/said
            [ $code = 1 ]
            ! "$program" --store $work/store list --json | grep -q '"id"'
        "#;
        let mut command = Command::new("bash");
        command.args(["-euc", script, "bash"]).args([cluster.shared(), repository().join("target/release/parallax")]);
        let done = Done::from(command.output()?).success()?;
        ensure!(done.stdout.contains("4.7.5 with hard links"), "{done:?}");
        Ok(())
    })
}
