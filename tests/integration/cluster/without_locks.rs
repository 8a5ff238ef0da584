//! A store on a file system without locks: two machines have the same directory by a FUSE file system that refuses each lock.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, Done, repository};

tests! { cluster:
    every_refusal_is_noticed_and_explained,
    writers_on_two_machines_take_turns,
    who_is_killed_leaves_a_store_that_works,
    the_lock_of_a_machine_that_is_gone,
    a_quota_leaves_the_store_as_it_was,
}

/// `served ERRNO [QUOTA]` mounts the directory that all machines share at `$store`'s parent, and returns when it is there.
const PRELUDE: &str = r#"
    work=$(mktemp -d) && cd "$work"
    mkdir served; mkfifo says
    trap 'kill $(jobs -p) 2>/dev/null || true; cd /; umount -l "$work/served" 2>/dev/null || true; wait; rm -rf "$work"' EXIT
    store=$work/served/store
    parallax() { /shared/without/parallax --store "$store" "$@"; }
    fails() { local expected=$1 code=0; shift; "$@" >said 2>&1 || code=$?; cat said; [ $code = 1 ] && grep -q "$expected" said; }
    served() {
        /shared/without/without-locks /shared/without/real served $@ >says &
        grep -m 1 mounted <says
    }
"#;

/// Runs a test with the programs that are built for it, because kill points are compiled with debug assertions only.
fn with_programs(cluster: &Cluster, test: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let packages = ["--package", "parallax-migrate-cli", "--package", "integration-tests"];
    let programs = ["parallax", "without-locks"];
    let output = Command::new(cargo)
        .args(["build", "--quiet", "--locked"])
        .args(packages)
        .args(programs.iter().flat_map(|program| ["--bin", program]))
        .current_dir(repository())
        .output()?;
    Done::from(output).success().context("a build with debug assertions")?;
    let directory = cluster.shared().join("without");
    fs::create_dir_all(directory.join("real"))?;
    for program in programs {
        fs::copy(repository().join("target/debug").join(program), directory.join(program))?;
    }
    let image = integration_tests::images::layout("static");
    Done::from(Command::new("cp").arg("-r").args([image, directory.join("image")]).output()?).success()?;
    let tested = test();
    fs::remove_dir_all(directory)?;
    tested
}

fn script(cluster: &Cluster, node: &str, text: &str) -> anyhow::Result<Done> {
    cluster
        .run(node, "root", &["bash", "-euc", &format!("{PRELUDE}\n{text}")])?
        .success()
        .with_context(|| node.to_owned())
}

fn every_refusal_is_noticed_and_explained(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        for errno in ENOLCK ENOSYS EOPNOTSUPP; do
            served $errno
            parallax migrate oci:/shared/without/image --name app 2>said; grep 'has no locks: writers use' said
            parallax list; parallax verify
            parallax tag app again; parallax rm again
            parallax gc --json | grep '"no_locks": true'
            printf 'stores = ["%s"]\n' "$store" >parallax.toml
            (/shared/without/parallax --config parallax.toml doctor || true) | grep -A1 'has no locks'
            parallax rm app; parallax gc --grace 0
            [[ -z $(ls served/store/parallax/tmp) && ! -e served/store/parallax/lock ]]
            umount served; wait
            rm -r /shared/without/real/store
        done
    "#;
    with_programs(cluster, || script(cluster, "ctl", text).map(drop))
}

/// Quotas of the kernel's own file systems need a kernel that has them. What counts is that a write fails so, at any point. The image's one file is
/// random, so that its layer is larger than the quotas, and small, so that making it costs little.
fn a_quota_leaves_the_store_as_it_was(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        look() { (cd /shared/without/real/store; find . -printf '%p %y %l\n' | sort; find . -type f -exec sha256sum {} + | sort); }
        umoci init --layout image; umoci new --image image:latest
        head --bytes=4M /dev/urandom >random
        umoci insert --image image:latest random /random
        served ENOLCK
        parallax migrate oci:/shared/without/image --name app
        umount served; wait
        look >before
        for quota in 0 100 4000 40000 400000 4000000; do
            served ENOLCK $quota
            fails 'Disk quota exceeded' parallax migrate oci:$work/image --name more
            umount served; wait
            look >after; diff before after
        done
        # While the image is made visible: what can't be taken back without writing is left to gc.
        /shared/without/parallax --store other migrate oci:$work/image
        size=$(stat -c %s other/parallax/layers/*.squash)
        for more in 200 1000 2000 4000; do
            served ENOLCK $((size + more))
            fails 'Disk quota exceeded' parallax migrate oci:$work/image --name more
            umount served; wait
            served ENOLCK
            parallax verify; parallax gc --grace 0; parallax verify
            [[ $(parallax list | grep -c localhost/) = 1 ]]
            umount served; wait
        done
        served ENOLCK
        parallax migrate oci:$work/image --name more
        parallax verify
    "#;
    with_programs(cluster, || script(cluster, "ctl", text).map(drop))
}

/// Each machine brings and removes its images and collects, and sees those of the other.
fn writers_on_two_machines_take_turns(cluster: &Cluster) -> anyhow::Result<()> {
    let text = |node: &str| {
        format!(
            r#"
            served ENOLCK
            # Both make the store; there is none to collect before.
            parallax migrate --quiet oci:/shared/without/image --name {node}0
            for i in 1 2; do
                cp -r /shared/without/image $i
                umoci config --image $i:latest --config.env FROM={node}$i 2>/dev/null ||
                    umoci config --image $i:static --config.env FROM={node}$i
                (
                    for round in 1 2; do
                        parallax migrate --quiet oci:$work/$i --name {node}$i
                        parallax list | grep -q localhost/{node}$i
                        parallax rm --quiet {node}$i
                    done
                    parallax migrate --quiet oci:$work/$i --name {node}$i
                ) || touch failed &
                writers+=($!)
            done
            for round in 1 2 3; do parallax gc --quiet --grace 0; done
            parallax rm --quiet {node}0
            wait ${{writers[@]}}
            [[ ! -e failed ]]
            "#
        )
    };
    let both = || {
        let other = std::thread::scope(|scope| {
            let other = scope.spawn(|| script(cluster, "n1", &text("n1")));
            let this = script(cluster, "ctl", &text("ctl"));
            let other = other.join().map_err(|_| anyhow::anyhow!("the other machine's thread panicked"))?;
            this.and(other)
        });
        other?;
        let look = r#"
            served ENOLCK
            parallax verify; parallax gc; parallax verify
            parallax list | grep -c localhost/
            ls served/store/parallax/tmp
            [[ ! -e served/store/parallax/lock ]]
        "#;
        let done = script(cluster, "n1", look)?;
        ensure!(done.stdout.lines().any(|line| line == "4"), "images were lost: {done:?}");
        ensure!(done.stdout.contains("removed 0 things"), "something was left: {done:?}");
        Ok(())
    };
    with_programs(cluster, both)
}

/// The dead leave the lock's file; whoever comes next on this machine sees that they are.
fn who_is_killed_leaves_a_store_that_works(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        served ENOSYS
        parallax --quiet migrate oci:/shared/without/image --name kept
        cp -r /shared/without/image other
        umoci config --image other:latest --config.env OTHER=1 2>/dev/null || umoci config --image other:static --config.env OTHER=1
        left=0
        for change in add remove; do
            for at in $(seq 1 7 300); do
                case $change in
                    add) arguments="migrate oci:$work/other --name other" ;;
                    remove) parallax --quiet migrate oci:$work/other --name other; arguments='rm other' ;;
                esac
                code=0
                PARALLAX_TEST_KILL_AT=$at parallax --quiet $arguments >/dev/null 2>&1 || code=$?
                [[ $code != 0 ]] || break
                [[ $code == 137 ]]
                [[ ! -e $store/parallax/lock ]] || left=$((left + 1))
                parallax list | grep -q localhost/kept
                # The next one may have to take the lock from the dead.
                parallax --quiet gc --grace 0
                parallax verify >/dev/null
                [[ -z $(ls $store/parallax/tmp) ]]
                [[ ! -e $store/parallax/lock ]]
                if parallax list | grep -q localhost/other; then parallax --quiet rm other; fi
            done
            echo $change $at
        done
        echo left $left
    "#;
    let killed = || {
        let done = script(cluster, "ctl", text)?;
        let number = |word: &str| -> anyhow::Result<u32> {
            let line = done.stdout.lines().find_map(|line| line.strip_prefix(word));
            Ok(line.with_context(|| format!("no {word:?}: {done:?}"))?.trim().parse()?)
        };
        ensure!((20..290).contains(&number("add ")?) && (20..290).contains(&number("remove ")?), "{done:?}");
        ensure!(number("left ")? >= 5, "nobody was killed who had the lock: {done:?}");
        Ok(())
    };
    with_programs(cluster, killed)
}

/// Nothing can be known of a process of another machine: its lock stays until somebody says that it is gone.
fn the_lock_of_a_machine_that_is_gone(cluster: &Cluster) -> anyhow::Result<()> {
    let there = r#"
        served EOPNOTSUPP
        parallax --quiet migrate oci:/shared/without/image --name kept
        for at in $(seq 4 40); do
            PARALLAX_TEST_KILL_AT=$at parallax tag kept other || true
            [[ ! -e $store/parallax/lock ]] || break
        done
        cat $store/parallax/lock
    "#;
    let here = r#"
        served EOPNOTSUPP
        export PARALLAX_TEST_ZERO_TIMEOUT=1
        parallax list | grep localhost/kept
        fails 'the store is locked by process [0-9]* on n1.*parallax gc --break-lock' parallax tag kept mine
        fails 'the store is locked by' parallax gc
        [[ -e $store/parallax/lock ]]
        parallax gc --break-lock
        parallax tag kept mine
        parallax verify
        [[ ! -e $store/parallax/lock ]]
    "#;
    with_programs(cluster, || {
        script(cluster, "n1", there)?;
        script(cluster, "ctl", here).map(drop)
    })
}
