//! Subordinate ids from a module that `nsswitch.conf` names, as sssd's, instead of the files.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::ensure;
use integration_tests::clean::wait_for_no_lease;
use integration_tests::cluster::{Cluster, Done, repository};

use super::with_file;

tests! { cluster:
    a_user_whose_ids_are_from_a_module_gets_a_container,
    a_module_that_hangs_is_given_up,
}

const NSSWITCH: &str = "/etc/nsswitch.conf";
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libsubid_test.so";
const HANGS: &str = "/run/subid-hangs";

/// A file on n1 that is removed with this value.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Runs `body` while n1's ids are those of the test's module, which gives u3 a range.
fn with_module(cluster: &Cluster, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let source = repository().join("tests/integration/cluster/subordinate/libsubid_test.c");
    let module = Removed(cluster.path_on("n1", LIBRARY)?);
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O", "-Wall", "-Werror", "-o"]).args([&module.0, &source]);
    Done::from(compiler.output()?).success()?;
    let before = fs::read_to_string(cluster.path_on("n1", NSSWITCH)?)?;
    with_file(cluster, "n1", NSSWITCH, Some(&format!("{before}subid: test\n")), body)
}

fn a_user_whose_ids_are_from_a_module_gets_a_container(cluster: &Cluster) -> anyhow::Result<()> {
    let step = ["-w", "n1", "--parallax-image=debian", "sh", "-c", "stat -c %U:%G /etc/shadow"];
    let without = cluster.srun("u3", &step)?;
    ensure!(without.code != 0 && without.stderr.contains("65536 to /etc/subuid"), "{without:?}");
    with_module(cluster, || {
        let done = cluster.srun("u3", &step)?.success()?;
        ensure!(done.stdout.lines().last() == Some("root:shadow"), "{done:?}");
        // The module has no ids for u1, who has some in the files: shadow asks one source only.
        let other = cluster.srun("u1", &step)?;
        ensure!(other.code != 0 && other.stderr.contains("65536 to the source \"test\""), "{other:?}");

        let report = cluster.run("n1", "u3", &["parallax", "doctor"])?;
        ensure!(
            report.stdout.contains("the source \"test\" (subid in /etc/nsswitch.conf) has 65536 ids"),
            "{report:?}"
        );
        Ok(())
    })?;
    wait_for_no_lease(cluster, "n1")
}

fn a_module_that_hangs_is_given_up(cluster: &Cluster) -> anyhow::Result<()> {
    with_module(cluster, || {
        let hangs = Removed(cluster.path_on("n1", HANGS)?);
        fs::write(&hangs.0, "")?;
        let done = cluster.srun("u3", &["-w", "n1", "--parallax-image=debian", "true"])?;
        let reason = "the source of subordinate ids did not answer within 10 s";
        ensure!(done.code != 0 && done.stderr.contains(reason), "{done:?}");
        drop(hangs);
        cluster.srun("u3", &["-w", "n1", "--parallax-image=debian", "true"])?.success().map(drop)
    })?;
    wait_for_no_lease(cluster, "n1")
}
