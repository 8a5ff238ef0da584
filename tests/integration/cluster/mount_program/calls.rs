//! How Podman calls it, and what it is handed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::Cluster;

use super::{EVERY, PLAIN, PROGRAM, expect_lines};

tests! {
    guests:
        every_form_of_a_call;
    cluster:
        options_in_one_word,
        options_that_podman_may_give,
        many_layers_and_long_paths,
        any_bytes_in_paths_and_the_real_root,
        a_store_on_fuse_is_read_little_and_not_locked,
        probes_are_answered;
}

/// What each Podman writes is recorded, so that it is known that these forms were tried.
fn every_form_of_a_call(cluster: &Cluster) -> anyhow::Result<()> {
    let recorder = cluster.shared().join("records");
    fs::write(
        &recorder,
        format!("#!/bin/sh\nprintf '%s\\n' \"$*\" >>$XDG_RUNTIME_DIR/calls\nexec {PROGRAM} \"$@\"\n"),
    )?;
    fs::set_permissions(&recorder, Permissions::from_mode(0o755))?;
    let text = "
        podman() {
            command podman --root $XDG_RUNTIME_DIR/graph --runroot $XDG_RUNTIME_DIR/run \\
                --storage-opt additionalimagestore=/shared/store --storage-opt mount_program=/shared/records \"$@\"
        }
        run python true
        run --userns=auto debian true || true
        [ $(id -u) = 0 ] || run --userns=keep-id debian true
        mkdir $XDG_RUNTIME_DIR/a:b; touch $XDG_RUNTIME_DIR/a:b/file
        podman run --name changed --network=host tiny touch /new
        export -f podman
        # Rootless Podman 4.3 can't; its own image comes from elsewhere then.
        if ! podman commit --quiet changed localhost/own >/dev/null 2>&1; then
            mkdir $HOME/tree; touch $HOME/tree/new; tar -C $HOME/tree -c . | podman import --quiet - localhost/own >/dev/null
        fi
        inside bash -euc 'ls $(podman image mount localhost/own)/new; podman image unmount localhost/own >/dev/null' | grep -o new
        run --mount type=image,src=localhost/own,dst=/mnt debian ls /mnt/new
        cat $XDG_RUNTIME_DIR/calls >&2";
    for podman in EVERY {
        let done = podman.script(cluster, text)?.success().with_context(|| format!("{podman:?}"))?;
        expect_lines(&done, &["new", "/mnt/new"])?;
        let calls: Vec<&str> = done.stderr.lines().filter(|line| line.starts_with("-o ")).collect();
        let some = |words: &str| calls.iter().any(|call| call.contains(words));
        let form = if podman.node == "sid" { "/diff:/shared/store/overlay/" } else { ":/shared/store/overlay/l/" };
        ensure!(some(form) && some(",volatile"), "{podman:?}: {calls:#?}");
        ensure!(podman.is_rootful() || some(",uidmapping=:0:"), "{podman:?}: {calls:#?}");
        ensure!(podman.node != "bookworm" || some(",,"), "{podman:?}: no empty option: {calls:#?}");
        ensure!(calls.iter().any(|call| !call.contains("upperdir=")), "{podman:?}: no read-only mount: {calls:#?}");
    }
    Ok(fs::remove_file(recorder)?)
}

/// One layer file and directories to mount it with, for direct calls: `$base/overlay/{l/ABC,id/diff}`, `u`, `w` and `m` in
/// `$base`; `call OPTIONS` mounts on `$base/m`.
const DIRECT: &str = r#"
base=$(mktemp -d /tmp/direct.XXXXXX)
mkdir -p $base/overlay/l $base/overlay/id/diff $base/u $base/w $base/m $base/tree/sub
echo inside >$base/tree/sub/file
mksquashfs $base/tree $base/overlay/l/ABC.squash -quiet -no-progress >/dev/null
printf ABC >$base/overlay/id/link; ln -s ../id/diff $base/overlay/l/ABC
call() { PARALLAX_MP_LOGFILE=$base/log PROGRAM -o "$1" $base/m; }
upper="upperdir=$base/u,workdir=$base/w"
close() {
    umount $base/m; rm -rf $base/u $base/w; mkdir $base/u $base/w
}
"#;

/// Runs a script that calls the program directly, where Podman would, as a user and as root.
fn direct(cluster: &Cluster, text: &str, expected: &[&str]) -> anyhow::Result<()> {
    let end = "rm -r $base; all_end";
    let text = format!("set -eu\n{DIRECT}\n{text}\n{end}").replace("PROGRAM", PROGRAM);
    let quoted = format!(
        "export -f all_end\ncat >$XDG_RUNTIME_DIR/script <<'END'\n{text}\nEND\ninside bash $XDG_RUNTIME_DIR/script"
    );
    for podman in [PLAIN, EVERY[3]] {
        let done = podman.script(cluster, &quoted)?.success().with_context(|| format!("{podman:?}"))?;
        expect_lines(&done, expected).with_context(|| format!("{podman:?}"))?;
    }
    Ok(())
}

fn options_that_podman_may_give(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        lower=lowerdir=$base/overlay/l/ABC
        for options in \
            "$lower,$upper" "$lower,$upper,,volatile" "$lower,$upper,nodev,nosuid,lazytime" \
            "$lower,$upper,context=\"system_u:object_r:container_file_t:s0:c1,c2\"" \
            "$lower,$upper,volatile,context=\"system_u:object_r:container_file_t:s0:c1,c2\",uidmapping=:0:0:1,gidmapping=:0:0:1" \
            "$lower:$base/overlay/id/empty,$upper" "$lower:$base/overlay/id/diff,$upper" \
            "lowerdir=$base/overlay/id/diff,$upper,xattr_permissions=2" "lowerdir=$base/overlay/id/diff,$upper,squash_to_uid=0,squash_to_gid=0"
        do
            call "$options" && echo changed >$base/m/sub/new
            cat $base/m/sub/file $base/u/sub/new | xargs
            close
        done
        call $lower; touch $base/m/new 2>/dev/null || cat $base/m/sub/file; close
        # Directories that are not a store's, as for volumes with :O and builds.
        mkdir $base/x:y; echo odd >$base/x:y/odd
        call "lowerdir=$base/x\:y,$upper,private"; cat $base/m/odd; close
        # A target that is a mount already gets another on top.
        call $lower,$upper; echo first >$base/m/first
        mkdir $base/u2 $base/w2; call "$lower,upperdir=$base/u2,workdir=$base/w2"
        ls $base/m; umount $base/m; ls $base/m | xargs; close
        grep -o "under the kernel's overlay" $base/log | wc -l"#;
    let mut expected = vec!["inside changed"; 9];
    expected.extend(["inside", "odd", "sub", "first sub", "9"]);
    direct(cluster, text, &expected)
}

/// More than fits into one page of options, and paths as long as they can be.
fn many_layers_and_long_paths(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        long=$base; for i in $(seq 1 12); do long=$long/$(printf 'x%.0s' $(seq 1 200)); done
        mkdir -p $long/overlay/l; lower=
        for i in $(seq 1 200); do
            mkdir -p $long/overlay/$i/diff; ln -s ../$i/diff $long/overlay/l/L$i
            cp $base/overlay/l/ABC.squash $long/overlay/l/L$i.squash
        done
        for i in $(seq 1 40); do lower=$lower:$long/overlay/l/L$i; done
        call "lowerdir=${lower#:},$upper"; cat $base/m/sub/file; close
        short=$(mktemp -d /tmp/s.XXXXXX); ln -s $long/overlay $short/overlay; lower=
        for i in $(seq 1 200); do lower=$lower:$short/overlay/l/L$i; done
        call "lowerdir=${lower#:},$upper"; cat $base/m/sub/file; pgrep -c squashfuse; close
        rm -r $short
        grep -o "[0-9]* SquashFS layers.*under the kernel's overlay$" $base/log"#;
    let first = "40 SquashFS layers, 0 of them served already, under the kernel's overlay";
    direct(
        cluster,
        text,
        &[
            "inside",
            "inside",
            "200",
            first,
            "200 SquashFS layers, 0 of them served already, under the kernel's overlay",
        ],
    )
}

/// What is recorded are the calls on files of the store, by the program itself and not by squashfuse.
fn a_store_on_fuse_is_read_little_and_not_locked(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        mkdir $base/fuse; fuse-overlayfs -o lowerdir=$base/overlay $base/fuse
        ln -s $base/fuse $base/store
        mkdir $base/home; cd $base/home
        for lower in l/ABC id/diff; do
            strace -y -o $base/trace -e trace=%file,%desc,read,pread64 \
                env PARALLAX_MP_LOGFILE=$base/log PROGRAM -o "lowerdir=$base/fuse/$lower,$upper" $base/m
            grep -E 'flock|F_(OFD_)?SETLK' $base/trace | grep -c fuse || true
            grep -c "open.*$base/fuse" $base/trace
            cat $base/m/sub/file; close
        done
        umount $base/fuse
        grep -o "is on a shared file system, FUSE" $base/log"#;
    let told = "is on a shared file system, FUSE";
    direct(cluster, text, &["0", "1", "inside", "0", "2", "inside", told, told])
}

/// The program itself, without Podman, which takes few of these paths; by a user and by root.
fn any_bytes_in_paths_and_the_real_root(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        odd=$(printf 'a b,c:d"e\\f\377')
        escaped=$(printf '%s' "$odd" | sed 's/[\\,:]/\\&/g')
        base=$(mktemp -d /tmp/odd.XXXXXX)
        mkdir -p "$base/$odd/overlay/l" "$base/$odd/overlay/id/diff" "$base/$odd/u" "$base/$odd/w" "$base/$odd/m"
        mkdir -p "$base/tree/sub"; echo inside >"$base/tree/sub/file"
        mksquashfs "$base/tree" "$base/$odd/overlay/l/ABC.squash" -quiet -no-progress >/dev/null
        printf ABC >"$base/$odd/overlay/id/link"; ln -s ../id/diff "$base/$odd/overlay/l/ABC"
        at="$base/$escaped"
        for lower in l/ABC id/diff; do
            for more in "" ,volatile ,noacl; do
                PROGRAM -o "lowerdir=$at/overlay/$lower,upperdir=$at/u,workdir=$at/w,$more" "$base/$odd/m"
                echo changed >"$base/$odd/m/sub/new"
                cat "$base/$odd/m/sub/file" "$base/$odd/u/sub/new" | xargs
                umount "$base/$odd/m"
                rm -rf "$base/$odd/u" "$base/$odd/w"; mkdir "$base/$odd/u" "$base/$odd/w"
            done
            PROGRAM -o "lowerdir=$at/overlay/$lower" "$base/$odd/m"
            if touch "$base/$odd/m/sub/new" 2>/dev/null; then echo writable; fi
            cat "$base/$odd/m/sub/file"; umount "$base/$odd/m"
        done
        for name in squashfuse fuse-overlayfs; do timeout 20 pidwait $name; done
        rm -r "$base""#
        .replace("PROGRAM", PROGRAM);
    let expected = ["inside changed", "inside changed", "inside changed", "inside"].repeat(2);
    let quoted = format!(
        "cat >$XDG_RUNTIME_DIR/script <<'END'\n{text}\nEND\ncommand podman unshare bash -u $XDG_RUNTIME_DIR/script"
    );
    let user = PLAIN.script(cluster, &quoted)?;
    ensure!(user.stdout.lines().eq(expected.iter().copied()), "{user:?}");
    let root = cluster.run("n1", "root", &["bash", "-uc", &text])?;
    ensure!(root.stdout.lines().eq(expected.iter().copied()), "{root:?}");
    Ok(())
}

fn probes_are_answered(cluster: &Cluster) -> anyhow::Result<()> {
    for probe in ["--version", "-V", "--help"] {
        let done = cluster.run("n1", "u1", &[PROGRAM, probe])?.success()?;
        ensure!(done.stdout.contains("parallax-mount-program") && done.stderr.is_empty(), "{done:?}");
    }
    let done = cluster.run("n1", "u1", &[PROGRAM, "-o", "volatile", "/tmp"])?;
    ensure!(done.code == 1 && done.stderr == "parallax-mount-program: the options name no lowerdir\n", "{done:?}");
    for (arguments, says) in [
        (&[][..], "the target is missing"),
        (&["-f", "-o", "a", "/t"], "unknown option -f"),
        (&["/t"], "-o is missing"),
    ] {
        let mut line = vec![PROGRAM];
        line.extend(arguments);
        let done = cluster.run("n1", "u1", &line)?;
        ensure!(done.code == 2 && done.stderr.contains(says) && done.stderr.contains("Usage: "), "{says}: {done:?}");
    }
    Ok(())
}

/// As scripts call it: `-oOPTIONS`, and `-o OPTIONS` in one word.
fn options_in_one_word(cluster: &Cluster) -> anyhow::Result<()> {
    for form in ["\"-o $2\" \"$3\"", "\"-o$2\" \"$3\"", "\"$3\" -o \"$2\""] {
        let wrapper = cluster.shared().join("rewrites");
        fs::write(&wrapper, format!("#!/bin/sh\n[ \"$1\" = -o ] || exec {PROGRAM} \"$@\"\nexec {PROGRAM} {form}\n"))?;
        fs::set_permissions(&wrapper, Permissions::from_mode(0o755))?;
        let text = "
            podman() {
                command podman --root $XDG_RUNTIME_DIR/graph --runroot $XDG_RUNTIME_DIR/run \\
                    --storage-opt additionalimagestore=/shared/store --storage-opt mount_program=/shared/rewrites \"$@\"
            }
            run debian echo runs";
        let done = PLAIN.script(cluster, text)?.success().with_context(|| form.to_owned())?;
        expect_lines(&done, &["runs"])?;
        fs::remove_file(wrapper)?;
    }
    Ok(())
}
