//! Runs the tests in lanes that go on side by side.
//!
//! A test says what it needs ([`Need`]), and a lane is whatever has that: this machine, or a Slurm cluster of its own. `libtest-mimic` reads the
//! command line, but has one queue for all its threads, in which a test that waits for a cluster would hold up those that need none.
//!
//! Everything is built before the clock starts. Each test's duration goes to `target/test-times.tsv`.

mod lane;
mod prepare;
mod queue;
mod report;
mod times;

use std::fmt;
use std::process::ExitCode;
use std::time::Instant;

use libtest_mimic::Arguments;

use crate::cluster::Cluster;

use self::prepare::Prepared;
use self::queue::Queue;
use self::report::Report;

/// What a test needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// This machine: root and a mount namespace.
    Machine,
    /// The guests, nodes with the Podman of other Debian releases, beside a cluster. One lane has them.
    Guest,
    /// A cluster, whichever.
    Cluster,
    /// A cluster, with nothing else going on: it loads the machine.
    Alone,
    /// Nothing; runs after all others, for what it says of them.
    Last,
}

/// What a test on a cluster does; leaves the cluster clean.
pub type OnCluster = Box<dyn Fn(&Cluster) -> Result<(), String> + Send + Sync>;
/// What a test on this machine does.
pub type OnMachine = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What a test does: on a cluster, or on this machine.
pub enum Body {
    /// On a cluster.
    Cluster(OnCluster),
    /// On this machine.
    Machine(OnMachine),
}

/// A test.
#[derive(Debug)]
pub struct Test {
    /// Path of its function in this program, such as `cluster::errors::options_that_make_no_sense`.
    pub name: String,
    /// What it needs.
    pub need: Need,
    /// What it does.
    pub body: Body,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster(_) => "Cluster",
            Self::Machine(_) => "Machine",
        })
    }
}

/// Runs those of the tests that the command line asks for. Returns the program's exit code.
#[must_use]
pub fn run(arguments: &Arguments, tests: Vec<Test>) -> ExitCode {
    let all = tests.len();
    let wanted: Vec<Test> = tests.into_iter().filter(|test| is_wanted(arguments, &test.name)).collect();
    if arguments.list {
        for test in &wanted {
            println!("{}: test", test.name);
        }
        return ExitCode::SUCCESS;
    }
    let prepared = Prepared::new(&wanted, arguments.test_threads == Some(1));
    let report = Report::start(wanted.len(), all - wanted.len());
    let started = Instant::now();
    match &prepared {
        Ok(prepared) => lane::run_all(prepared, &Queue::new(wanted), &report),
        Err(message) => report.give_up(&wanted, message),
    }
    report.finish(started.elapsed())
}

/// Whether the command line asks for a test, by the rules of Rust's own test programs.
fn is_wanted(arguments: &Arguments, name: &str) -> bool {
    let matches = |pattern: &String| if arguments.exact { name == pattern } else { name.contains(pattern.as_str()) };
    arguments.filter.as_ref().is_none_or(matches) && !arguments.skip.iter().any(matches)
}
