//! What the tests' outcomes are reported as, in the form of Rust's own test programs.

use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Test, times};

/// How many of the slowest tests are shown at the end.
const SLOWEST: usize = 10;

/// What one test came to.
pub(super) struct Outcome {
    /// The test's name.
    pub name: String,
    /// The lane it ran in.
    pub lane: &'static str,
    /// How long it took, with the check of what it left.
    pub duration: Duration,
    /// Its error, if it failed.
    pub result: Result<(), String>,
}

impl Outcome {
    /// The outcome of a test that could not be run.
    pub(super) fn failed(test: &Test, message: String) -> Self {
        Self { name: test.name.clone(), lane: "none", duration: Duration::ZERO, result: Err(message) }
    }
}

/// Collects outcomes and prints them as they come.
pub(super) struct Report {
    outcomes: Mutex<Vec<Outcome>>,
    left_out: usize,
}

impl Report {
    /// Begins a report on `count` tests, when `left_out` others were not asked for.
    pub(super) fn start(count: usize, left_out: usize) -> Self {
        println!("\nrunning {count} test{}", if count == 1 { "" } else { "s" });
        Self { outcomes: Mutex::default(), left_out }
    }

    fn outcomes(&self) -> MutexGuard<'_, Vec<Outcome>> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes on standard error, for those who look on at a terminal, that a test has begun.
    pub(super) fn begin(&self, name: &str) {
        if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
            eprintln!("... {name}");
        }
    }

    /// Adds an outcome and prints its line.
    pub(super) fn add(&self, outcome: Outcome) {
        let word = if outcome.result.is_ok() { "ok" } else { "FAILED" };
        let mut outcomes = self.outcomes();
        println!("test {} ... {word} ({:.2} s, {})", outcome.name, outcome.duration.as_secs_f64(), outcome.lane);
        if let Err(message) = &outcome.result {
            println!("    {}", message.replace('\n', "\n    "));
        }
        outcomes.push(outcome);
    }

    /// Reports all tests as failed for one reason.
    pub(super) fn give_up(&self, tests: &[Test], message: &str) {
        println!("{message}");
        for test in tests {
            self.add(Outcome::failed(test, "nothing could be prepared; see above".to_owned()));
        }
    }

    /// Prints the failures, the slowest tests and the summary, which is the last line. Returns the program's exit code.
    pub(super) fn finish(&self, took: Duration) -> ExitCode {
        let outcomes = self.outcomes();
        let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.result.is_err()).collect();
        if !failed.is_empty() {
            println!("\nfailures:\n");
            for outcome in &failed {
                println!("---- {} ----\n{}\n", outcome.name, outcome.result.as_ref().err().map_or("", String::as_str));
            }
            println!("failures:");
            for outcome in &failed {
                println!("    {}", outcome.name);
            }
        }
        print_slowest(&outcomes);
        if let Err(error) = times::write(&outcomes) {
            println!("the tests' durations cannot be written: {error:#}");
        }
        let (word, passed) = (if failed.is_empty() { "ok" } else { "FAILED" }, outcomes.len() - failed.len());
        println!(
            "\ntest result: {word}. {passed} passed; {} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s",
            failed.len(),
            self.left_out,
            took.as_secs_f64()
        );
        if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(101) }
    }
}

fn print_slowest(outcomes: &[Outcome]) {
    let mut slowest: Vec<&Outcome> = outcomes.iter().collect();
    slowest.sort_by_key(|outcome| std::cmp::Reverse(outcome.duration));
    slowest.truncate(SLOWEST);
    println!("\nslowest (all are in {}):", times::FILE);
    for outcome in slowest {
        println!("{:9.2} s  {}", outcome.duration.as_secs_f64(), outcome.name);
    }
}
