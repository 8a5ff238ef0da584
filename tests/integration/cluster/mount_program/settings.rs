//! Where settings come from, where the log goes, and what others may have put there before.

use std::fs;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::Cluster;

use super::{PLAIN, expect_lines};
use crate::cluster::with_file;

tests! {
    cluster:
        settings_of_the_configuration_file,
        settings_of_the_scripts_file,
        a_program_that_the_scripts_file_names_is_missing,
        the_journal_is_told,
        what_others_put_in_its_way;
}

fn settings_of_the_configuration_file(cluster: &Cluster) -> anyhow::Result<()> {
    let before = fs::read_to_string(cluster.path_on("n1", "/etc/parallax/parallax.toml")?)?;
    let with = |section: &str, text: &str| {
        let mut done = None;
        let contents = format!("{before}\n[mount_program]\n{section}\n");
        with_file(cluster, "n1", "/etc/parallax/parallax.toml", Some(&contents), || {
            done = Some(PLAIN.script(cluster, text)?);
            Ok(())
        })?;
        done.context("no result")
    };
    let done = with("squashfuse = \"/none\"", "run debian true")?;
    let named = "/none is not installed (named by mount_program.squashfuse in /etc/parallax/parallax.toml)";
    ensure!(done.code != 0 && done.stderr.contains(named), "{done:?}");
    // A variable goes before it.
    let text = "PARALLAX_MP_SQUASHFUSE_CMD=squashfuse run debian echo runs";
    expect_lines(&with("squashfuse = \"/none\"", text)?.success()?, &["runs"])?;
    let text = "run debian stat -c %u:%g /etc/shadow";
    expect_lines(&with("uid = 7\ngid = 8", text)?.success()?, &["7:8"])?;
    let done = with("squashfuze = \"/none\"", "run debian true")?;
    ensure!(done.code != 0 && done.stderr.contains("parallax.toml, line"), "{done:?}");
    // No file is needed.
    let mut done = None;
    with_file(cluster, "n1", "/etc/parallax/parallax.toml", None, || {
        done = Some(PLAIN.script(cluster, "run debian echo runs")?);
        Ok(())
    })?;
    expect_lines(&done.context("no result")?.success()?, &["runs"])
}

/// The error names the file, not only the variable: it goes before the environment.
fn a_program_that_the_scripts_file_names_is_missing(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        export PARALLAX_MP_CONFIG=$XDG_RUNTIME_DIR/parallax-mount.conf PARALLAX_MP_FUSE_OVERLAYFS_CMD=fuse-overlayfs
        echo 'PARALLAX_MP_FUSE_OVERLAYFS_CMD=/none' >$PARALLAX_MP_CONFIG
        run --userns=keep-id debian true"#;
    let done = PLAIN.script(cluster, text)?;
    let named = "/none is not installed (named by PARALLAX_MP_FUSE_OVERLAYFS_CMD in ";
    ensure!(done.code != 0 && done.stderr.contains(named), "{done:?}");
    ensure!(done.stderr.contains("/parallax-mount.conf); install it, or correct the name"), "{done:?}");
    Ok(())
}

fn settings_of_the_scripts_file(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        export PARALLAX_MP_CONFIG=$XDG_RUNTIME_DIR/parallax-mount.conf
        export PARALLAX_MP_SQUASHFUSE_CMD=/of/the/environment
        cat >$PARALLAX_MP_CONFIG <<'END'
# The site's settings.
export PARALLAX_MP_SQUASHFUSE_CMD="squashfuse"
PARALLAX_MP_UID=7; PARALLAX_MP_GID='8'
PARALLAX_MP_LOGFILE=$XDG_RUNTIME_DIR/log-of-${USER:-nobody}
PARALLAX_MP_TMPDIR=/tmp/parallax PARALLAX_MP_INOTIFYWAIT_CMD=/none
touch /tmp/executed
END
        run debian stat -c %u:%g /etc/shadow
        test -e /tmp/executed || echo "not executed"
        grep -o '"touch" is no assignment and is not executed' $XDG_RUNTIME_DIR/log-of-u1
        echo 'PARALLAX_MP_SQUASHFUSE_CMD=$(touch /tmp/executed; echo squashfuse)' >$PARALLAX_MP_CONFIG
        run debian true 2>&1 | grep -o 'line 1: PARALLAX_MP_SQUASHFUSE_CMD is set by a command' | head -n 1
        test -e /tmp/executed || echo "not executed""#;
    let expected = [
        "7:8",
        "not executed",
        "\"touch\" is no assignment and is not executed",
        "line 1: PARALLAX_MP_SQUASHFUSE_CMD is set by a command",
        "not executed",
    ];
    expect_lines(&PLAIN.script(cluster, text)?.success()?, &expected)
}

/// The nodes have no systemd, so a socket takes its place.
fn the_journal_is_told(cluster: &Cluster) -> anyhow::Result<()> {
    let journal = "import os, socket\n\
                   os.makedirs('/run/systemd/journal', exist_ok=True)\n\
                   s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
                   s.bind('/run/systemd/journal/socket')\n\
                   s.settimeout(60)\n\
                   print('ready', flush=True)\n\
                   for i in range(2): print(s.recv(9999).decode(), flush=True)\n\
                   os.remove('/run/systemd/journal/socket')\n";
    fs::write(cluster.shared().join("journal.py"), journal)?;
    let text = "\
        coproc python3 /shared/journal.py 2>/dev/null; exec 5<&${COPROC[0]}
        read -r word <&5
        unset PARALLAX_MP_LOGFILE
        PARALLAX_MP_LOGLEVEL=error run debian true
        run debian true
        PARALLAX_MP_SQUASHFUSE_CMD=/none run debian true 2>/dev/null || true
        sed '/^$/d' <&5; wait";
    let done = super::EVERY[3].script(cluster, text)?.success()?;
    fs::remove_file(cluster.shared().join("journal.py"))?;
    let lines: Vec<&str> = done.stdout.lines().collect();
    ensure!(lines.len() == 6 && lines[1] == "SYSLOG_IDENTIFIER=parallax-mount-program", "{done:?}");
    ensure!(lines[0] == "PRIORITY=6" && lines[2].contains("under the kernel's overlay"), "{done:?}");
    ensure!(lines[3] == "PRIORITY=3" && lines[5].contains("/none is not installed"), "{done:?}");
    Ok(())
}

/// Directories that the script used, and a log, which another user made before: nothing of theirs is used or written.
fn what_others_put_in_its_way(cluster: &Cluster) -> anyhow::Result<()> {
    let make = "for name in parallax-0 parallax-1001; do
            mkdir -m 1777 /tmp/$name /tmp/$name/mount_program; echo theirs >/tmp/$name/mount_program.log
        done
        mkfifo -m 0666 /tmp/parallax-1001/fifo; ln -s /home/u2/theirs /tmp/parallax-1001/link; touch /home/u2/theirs; chmod 666 /home/u2/theirs";
    cluster.run("n1", "u2", &["sh", "-euc", make])?.success()?;
    let text = "\
        OTHERS=yes
        for log in mount_program.log fifo link; do
            PARALLAX_MP_LOGFILE=/tmp/parallax-1001/$log run debian echo runs
        done
        cat /tmp/parallax-*/mount_program.log; cat /tmp/parallax-*/mount_program/* 2>/dev/null || true";
    let done = PLAIN.script(cluster, text);
    cluster.run("n1", "u2", &["sh", "-euc", "test ! -s theirs; rm -r theirs /tmp/parallax-*"])?.success()?;
    let done = done?;
    ensure!(done.stdout.lines().filter(|line| *line == "runs").count() == 3, "{done:?}");
    ensure!(done.stdout.matches("theirs").count() == 2, "{done:?}");
    Ok(())
}
