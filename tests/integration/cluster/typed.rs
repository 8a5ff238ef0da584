//! What users type at srun, sbatch and salloc, and what a job hands on to what is started in it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};

use anyhow::ensure;
use integration_tests::cluster::{Cluster, Done};

pub(super) mod broadcast;
pub(super) mod components;
pub(super) mod edf;
pub(super) mod environment;
pub(super) mod names;
pub(super) mod options;
pub(super) mod pinned;
pub(super) mod pyxis;
pub(super) mod site;

/// The tests of all modules.
pub(super) const TESTS: [&[crate::Listed]; 9] = [
    components::TESTS,
    edf::TESTS,
    environment::TESTS,
    broadcast::TESTS,
    names::TESTS,
    options::TESTS,
    pinned::TESTS,
    pyxis::TESTS,
    site::TESTS,
];

/// u1's id and group.
const U1: u32 = 1001;

/// Puts an executable file of u1's into their home.
fn put(cluster: &Cluster, name: &str, contents: &[u8]) -> anyhow::Result<()> {
    let file = cluster.home("u1").join(name);
    fs::write(&file, contents)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    Ok(chown(&file, Some(U1), Some(U1))?)
}

/// Runs a batch script of u1's to its end; returns how sbatch ended and what the script wrote.
fn batch(cluster: &Cluster, script: &str, options: &[&str]) -> anyhow::Result<(Done, String)> {
    let output = cluster.home("u1").join("typed.out");
    if output.exists() {
        fs::remove_file(&output)?;
    }
    put(cluster, "typed.sh", script.as_bytes())?;
    let command = [&["sbatch", "--wait", "--output=typed.out"], options, &["typed.sh"]].concat();
    let done = cluster.run("ctl", "u1", &command)?;
    let written = fs::read_to_string(&output).unwrap_or_default();
    Ok((done, written))
}

/// Runs a batch script of u1's, which must succeed; returns what it wrote.
fn batch_output(cluster: &Cluster, script: &str, options: &[&str]) -> anyhow::Result<String> {
    let (done, written) = batch(cluster, script, options)?;
    ensure!(done.code == 0, "{done:?}\n{written}");
    Ok(written)
}

/// Makes sure that a command was refused with one sentence that has all these parts, before anything ran.
fn refused(done: &Done, parts: &[&str]) -> anyhow::Result<()> {
    ensure!(done.code != 0 && done.stdout.is_empty(), "it was not refused: {done:?}");
    let lines: Vec<&str> = done.stderr.lines().filter(|line| line.contains("parallax: ")).collect();
    ensure!(lines.len() == 1, "not one sentence: {done:?}");
    ensure!(!done.stderr.contains("queued") && !done.stderr.contains("Granted"), "it got as far as a job: {done:?}");
    for part in parts {
        ensure!(lines[0].contains(part), "no {part:?} in {:?}", lines[0]);
    }
    Ok(())
}
