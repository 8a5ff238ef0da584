//! Work on each of several images.

use crate::output::{explained, report_error};

/// Does the work for each of `items`, also if it fails for some. Prints all failures but the last, and returns that.
pub(super) fn each(
    items: &[String],
    done: &str,
    mut work: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut failures: Vec<anyhow::Error> = Vec::new();
    for item in items {
        if let Err(error) = work(item) {
            failures.push(error.context(format!("{item} cannot be {done}")));
        }
    }
    let last = failures.pop();
    for error in failures {
        report_error(&explained(&error));
    }
    last.map_or(Ok(()), Err)
}
