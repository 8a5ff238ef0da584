//! The tests that need root: `privileged`, in private namespaces of this machine, and `cluster`, on a real Slurm cluster.
//!
//! None is ever skipped: who is not root is told so, and everything fails. Name a part of a test's name to run only those.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use integration_tests::clean::{self, Scratch, assert_clean};
use integration_tests::cluster::{Cluster, repository};
use integration_tests::images;
use integration_tests::table::{self, Row};
use libtest_mimic::{Arguments, Failed, Trial};

use crate::cluster::faults::Fault;

mod cluster;
mod files;
mod privileged;

/// A test on the cluster.
type OnCluster = fn(&Cluster) -> anyhow::Result<()>;
/// A test on this machine.
type OnMachine = fn() -> anyhow::Result<()>;

/// The cluster, brought up by the first test that needs it, or why it could not be.
type Shared = Arc<OnceLock<Result<Cluster, String>>>;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Every test looks at whole nodes.
    arguments.test_threads = Some(1);
    let listing = arguments.list;
    if !listing {
        if let Err(message) = be_root_in_private() {
            eprintln!("{message}");
            return ExitCode::FAILURE;
        }
    }
    let shared = Shared::default();
    let machine = files::TESTS.iter().chain(privileged::TESTS).chain(privileged::trust::TESTS);
    let mut trials: Vec<Trial> = machine.map(|&(name, test)| Trial::test(name, move || Ok(test()?))).collect();
    trials.extend(fault_trials(&shared));
    for &(name, test) in cluster::tests() {
        let shared = Arc::clone(&shared);
        trials.push(Trial::test(name, move || on_cluster(&shared, test)));
    }
    // These take a minute if they are not there yet.
    let wanted = arguments.filter.as_ref().is_none_or(|filter| filter.contains("mount_program"));
    let guests = (wanted && !listing).then(Cluster::build_guests);
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Some(Ok(mut guests)) = guests {
        let _ = guests.wait();
    }
    drop(shared);
    conclusion.exit_code()
}

/// The faults, each a test, and at their end the table of those that were tried.
fn fault_trials(shared: &Shared) -> Vec<Trial> {
    let rows = Arc::new(Mutex::new(Vec::new()));
    let mut trials = Vec::new();
    for &fault in cluster::faults::all() {
        let (shared, rows) = (Arc::clone(shared), Arc::clone(&rows));
        trials.push(Trial::test(fault.name, move || try_fault(&shared, &fault, &rows)));
    }
    // The name has nothing in common with those of the faults but their group: it is tried whenever the group is.
    trials.push(Trial::test("cluster::faults::table", move || {
        let text = table::markdown(&rows.lock().unwrap_or_else(PoisonError::into_inner));
        println!("\n\n{text}");
        Ok(std::fs::write(repository().join("target/faults.md"), text)?)
    }));
    trials
}

/// Tries a fault and writes its row of the table.
fn try_fault(shared: &Shared, fault: &Fault, rows: &Mutex<Vec<Row>>) -> Result<(), Failed> {
    let cluster = up(shared)?;
    let before = Scratch::now(cluster)?;
    let seen = (fault.test)(cluster).map_err(|error| format!("{error:#}"));
    let verdict = clean::examine(cluster, Some(&before));
    let (clean, idle) = (verdict.left.is_empty(), verdict.not_idle.is_empty());
    let row = Row { fault: fault.what, seen: seen.clone(), clean, idle };
    rows.lock().unwrap_or_else(PoisonError::into_inner).push(row);
    if !idle {
        clean::make_good(cluster);
    }
    conclude(seen.map(drop), verdict.into_result())
}

/// These tests mount and make devices. What they mount stays in a mount namespace of their own.
fn be_root_in_private() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("these tests mount file systems and run a Slurm cluster in namespaces: run them as root".to_owned());
    }
    let private = || -> Result<(), Box<dyn std::error::Error>> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
        use rustix::mount::{MountPropagationFlags, mount_change};
        Ok(mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
    };
    private().map_err(|error| format!("no mount namespace can be made for the tests: {error}"))
}

/// Runs a test on the cluster and makes sure that it leaves nothing there.
fn on_cluster(shared: &Shared, test: OnCluster) -> Result<(), Failed> {
    let cluster = up(shared)?;
    let tested = test(cluster).map_err(|error| format!("{error:#}"));
    let clean = assert_clean(cluster);
    if clean.is_err() {
        clean::make_good(cluster);
    }
    conclude(tested, clean)
}

fn up(shared: &Shared) -> Result<&Cluster, Failed> {
    let cluster = shared.get_or_init(|| bring_up().map_err(|error| format!("{error:#}")));
    cluster.as_ref().map_err(|message| Failed::from(message.clone()))
}

fn conclude(tested: Result<(), String>, clean: anyhow::Result<()>) -> Result<(), Failed> {
    match (tested, clean) {
        (Ok(()), Ok(())) => Ok(()),
        (Err(error), Ok(())) => Err(Failed::from(error)),
        (Ok(()), Err(left)) => Err(Failed::from(format!("{left:#}"))),
        (Err(error), Err(left)) => Err(Failed::from(format!("{error}\nand then: {left:#}"))),
    }
}

fn bring_up() -> anyhow::Result<Cluster> {
    images::build(&images::IMAGES)?;
    let cluster = Cluster::up()?;
    for name in images::IMAGES {
        images::migrate(&cluster, name)?;
    }
    Ok(cluster)
}
