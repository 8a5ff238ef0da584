//! `target/test-times.tsv`: how long each test took when it ran last.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;

use crate::cluster::repository;
use anyhow::Context as _;

use super::report::Outcome;

/// The file's path in the repository. Its lines are name, seconds, lane and outcome, separated by tabs.
pub(super) const FILE: &str = "target/test-times.tsv";

/// Writes the outcomes. Lines of tests that did not run this time stay.
///
/// # Errors
/// The file cannot be read or written.
pub(super) fn write(outcomes: &[Outcome]) -> anyhow::Result<()> {
    let path = repository().join(FILE);
    let old = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        read => read.with_context(|| FILE.to_owned())?,
    };
    fs::write(&path, merge(&old, outcomes)).with_context(|| FILE.to_owned())
}

fn merge(old: &str, outcomes: &[Outcome]) -> String {
    let mut lines: BTreeMap<&str, String> =
        old.lines().filter_map(|line| Some((line.split_once('\t')?.0, line.to_owned()))).collect();
    for Outcome { name, lane, duration, result } in outcomes {
        let word = if result.is_ok() { "ok" } else { "failed" };
        lines.insert(name, format!("{name}\t{:.2}\t{lane}\t{word}", duration.as_secs_f64()));
    }
    lines.into_values().map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn new_times_replace_old_ones_and_others_stay() {
        let outcome =
            Outcome { name: "b".into(), lane: "first", duration: Duration::from_millis(1500), result: Ok(()) };
        assert_eq!(
            merge("b\t9.00\tsecond\tfailed\na\t1.00\tfirst\tok\n", &[outcome]),
            "a\t1.00\tfirst\tok\nb\t1.50\tfirst\tok\n"
        );
    }
}
