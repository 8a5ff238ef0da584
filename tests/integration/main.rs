//! The tests that need root: `privileged`, in private namespaces of this machine, and `cluster`, on real Slurm clusters.
//!
//! None is ever skipped: callers other than root are told so, and everything fails. A part of a test's name runs only those.

#![allow(clippy::indexing_slicing, reason = "a test that indexes past the end fails, as it should")]

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use integration_tests::clean::{self, Scratch, assert_clean};
use integration_tests::cluster::{Cluster, repository};
use integration_tests::runner::{self, Body, Need, Test};
use integration_tests::table::{self, Row};
use libtest_mimic::Arguments;

use crate::cluster::faults::Fault;

/// Lists a module's tests by what they need: a constructor of [`Listed`], functions, `;` between two needs. A test's one name is the path of its
/// function.
macro_rules! tests {
    ($($need:ident: $($test:ident),+ $(,)?);+ $(;)?) => {
        pub(crate) const TESTS: &[crate::Listed] =
            &[$($(crate::Listed::$need(concat!(module_path!(), "::", stringify!($test)), $test)),+),+];
    };
}

mod cluster;
mod files;
mod privileged;

/// A test as its module lists it.
#[derive(Clone, Copy)]
struct Listed {
    /// Path of its function, with this program's own name.
    path: &'static str,
    need: Need,
    function: Function,
}

#[derive(Clone, Copy)]
enum Function {
    Machine(fn() -> anyhow::Result<()>),
    Cluster(fn(&Cluster) -> anyhow::Result<()>),
}

impl Listed {
    /// A test on this machine.
    const fn machine(path: &'static str, test: fn() -> anyhow::Result<()>) -> Self {
        Self { path, need: Need::Machine, function: Function::Machine(test) }
    }

    /// A test on a cluster.
    const fn cluster(path: &'static str, test: fn(&Cluster) -> anyhow::Result<()>) -> Self {
        Self { path, need: Need::Cluster, function: Function::Cluster(test) }
    }

    /// A test on a cluster that has guests.
    const fn guests(path: &'static str, test: fn(&Cluster) -> anyhow::Result<()>) -> Self {
        Self { path, need: Need::Guest, function: Function::Cluster(test) }
    }

    /// A test on a cluster that loads the machine.
    const fn alone(path: &'static str, test: fn(&Cluster) -> anyhow::Result<()>) -> Self {
        Self { path, need: Need::Alone, function: Function::Cluster(test) }
    }

    fn name(&self) -> String {
        shown(self.path)
    }
}

impl From<&Listed> for Test {
    fn from(listed: &Listed) -> Self {
        let body = match listed.function {
            Function::Machine(test) => Body::Machine(Box::new(move || test().map_err(|error| format!("{error:#}")))),
            Function::Cluster(test) => Body::Cluster(Box::new(move |cluster| run_on_cluster(cluster, test))),
        };
        Self { name: listed.name(), need: listed.need, body }
    }
}

fn main() -> ExitCode {
    // The trials of a test.
    if let Some(code) = parallax_probe::run_if_asked() {
        return code;
    }
    let arguments = Arguments::from_args();
    if !arguments.list {
        if let Err(message) = be_root_in_private() {
            eprintln!("{message}");
            return ExitCode::FAILURE;
        }
    }
    let mut tests: Vec<Test> = machine_tests().map(Test::from).collect();
    tests.extend(fault_tests());
    tests.extend(cluster::tests().map(Test::from));
    runner::run(&arguments, tests)
}

/// Every test on this machine.
fn machine_tests() -> impl Iterator<Item = &'static Listed> {
    let privileged = [
        privileged::TESTS,
        privileged::credentials::TESTS,
        privileged::lazy::TESTS,
        privileged::probe::TESTS,
        privileged::trust::TESTS,
    ];
    files::tests().chain(privileged.into_iter().flatten())
}

/// The path of a test's function without this program's own name.
fn shown(path: &str) -> String {
    path.strip_prefix("integration::").unwrap_or(path).to_owned()
}

/// The faults, each a test, and at their end the table of those that were tried.
fn fault_tests() -> Vec<Test> {
    let rows = Arc::new(Mutex::new(Vec::new()));
    let mut tests = Vec::new();
    for &fault in cluster::faults::all() {
        let rows = Arc::clone(&rows);
        let body = move |cluster: &Cluster| try_fault(cluster, &fault, &rows);
        tests.push(Test { name: fault.name(), need: fault.need, body: Body::Cluster(Box::new(body)) });
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
fn run_on_cluster(cluster: &Cluster, test: fn(&Cluster) -> anyhow::Result<()>) -> Result<(), String> {
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
