//! The tests that need root: `privileged`, in private namespaces of this machine, and `cluster`, on real Slurm clusters.
//!
//! None is ever skipped: callers other than root are told so, and everything fails. A part of a test's name runs only those.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use integration_tests::clean::{self, Scratch, assert_clean};
use integration_tests::cluster::{Cluster, repository};
use integration_tests::runner::{self, Body, Need, Test};
use integration_tests::table::{self, Row};
use libtest_mimic::Arguments;

use crate::cluster::faults::Fault;

/// Lists tests, each by the path of its function: its one name.
macro_rules! tests {
    (cluster: $($test:ident),+ $(,)?) => {
        pub const TESTS: &[(&str, crate::OnCluster)] =
            &[$((concat!(module_path!(), "::", stringify!($test)), $test)),+];
    };
    (machine: $($test:ident),+ $(,)?) => {
        pub const TESTS: &[(&str, crate::OnMachine)] =
            &[$((concat!(module_path!(), "::", stringify!($test)), $test)),+];
    };
}

mod cluster;
mod files;
mod privileged;

/// A test on the cluster.
type OnCluster = fn(&Cluster) -> anyhow::Result<()>;
/// A test on this machine.
type OnMachine = fn() -> anyhow::Result<()>;

/// Tests that load the whole machine, by name.
const ALONE: [&str; 2] =
    ["cluster::faults::load::many_steps_at_once", "cluster::daemon::many_leases_leave_the_agent_as_it_was"];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if !arguments.list {
        if let Err(message) = be_root_in_private() {
            eprintln!("{message}");
            return ExitCode::FAILURE;
        }
    }
    let mut tests: Vec<Test> = machine_tests().map(|&(name, test)| on_machine(name, test)).collect();
    tests.extend(fault_tests());
    tests.extend(cluster::tests().map(|&(name, test)| on_cluster(name, test)));
    runner::run(&arguments, tests)
}

/// Every test on this machine.
fn machine_tests() -> impl Iterator<Item = &'static (&'static str, OnMachine)> {
    let privileged = [privileged::TESTS, privileged::credentials::TESTS, privileged::trust::TESTS];
    files::tests().chain(privileged.into_iter().flatten())
}

fn on_machine(name: &str, test: OnMachine) -> Test {
    let body = move || test().map_err(|error| format!("{error:#}"));
    Test { name: shown(name), need: Need::Machine, body: Body::Machine(Box::new(body)) }
}

fn on_cluster(name: &str, test: OnCluster) -> Test {
    let body = move |cluster: &Cluster| run_on_cluster(cluster, test);
    let name = shown(name);
    Test { need: need(&name), name, body: Body::Cluster(Box::new(body)) }
}

/// The path of a test's function without this program's own name.
fn shown(path: &str) -> String {
    path.strip_prefix("integration::").unwrap_or(path).to_owned()
}

/// What a test on a cluster needs.
fn need(name: &str) -> Need {
    match name {
        _ if ALONE.contains(&name) => Need::Alone,
        _ if name.starts_with("cluster::mount_program::") => Need::Guest,
        _ => Need::Cluster,
    }
}

/// The faults, each a test, and at their end the table of those that were tried.
fn fault_tests() -> Vec<Test> {
    let rows = Arc::new(Mutex::new(Vec::new()));
    let mut tests = Vec::new();
    for &fault in cluster::faults::all() {
        let rows = Arc::clone(&rows);
        let body = move |cluster: &Cluster| try_fault(cluster, &fault, &rows);
        tests.push(Test { name: fault.name.to_owned(), need: need(fault.name), body: Body::Cluster(Box::new(body)) });
    }
    // The name has nothing in common with those of the faults but their group: it is tried whenever the group is.
    let body = move || {
        let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
        let place = |row: &Row| cluster::faults::all().position(|fault| fault.what == row.fault);
        rows.sort_by_key(place);
        let text = table::markdown(&rows);
        println!("\n\n{text}");
        std::fs::write(repository().join("target/faults.md"), text).map_err(|error| error.to_string())
    };
    tests.push(Test {
        name: "cluster::faults::table".to_owned(),
        need: Need::Last,
        body: Body::Machine(Box::new(body)),
    });
    tests
}

/// Tries a fault and writes its row of the table.
fn try_fault(cluster: &Cluster, fault: &Fault, rows: &Mutex<Vec<Row>>) -> Result<(), String> {
    let before = Scratch::now(cluster).map_err(|error| format!("{error:#}"))?;
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

/// Gives the process a mount namespace of its own, in which what the tests mount stays.
fn be_root_in_private() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("these tests mount file systems and run a Slurm cluster in namespaces: run them as root".to_owned());
    }
    let private = || -> Result<(), Box<dyn std::error::Error>> {
        use rustix::mount::{MountPropagationFlags, mount_change};
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
        Ok(mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
    };
    private().map_err(|error| format!("no mount namespace can be made for the tests: {error}"))
}

/// Runs a test on a cluster and makes sure that it leaves nothing there.
fn run_on_cluster(cluster: &Cluster, test: OnCluster) -> Result<(), String> {
    let tested = test(cluster).map_err(|error| format!("{error:#}"));
    let clean = assert_clean(cluster);
    if clean.is_err() {
        clean::make_good(cluster);
    }
    conclude(tested, clean)
}

fn conclude(tested: Result<(), String>, clean: anyhow::Result<()>) -> Result<(), String> {
    match (tested, clean) {
        (Ok(()), Ok(())) => Ok(()),
        (Err(error), Ok(())) => Err(error),
        (Ok(()), Err(left)) => Err(format!("{left:#}")),
        (Err(error), Err(left)) => Err(format!("{error}\nand then: {left:#}")),
    }
}
