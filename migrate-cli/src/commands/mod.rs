//! The commands, one file each.

pub mod about;
mod adopt;
pub mod doctor;
pub mod find;
pub mod gc;
pub mod inspect;
pub mod list;
pub mod migrate;
pub mod rm;
pub mod status;
pub mod verify;

use crate::output::print;

/// Prints a value as JSON to standard output.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Does something to each of `items`, whatever becomes of the others. All failures but the last are printed, that is
/// returned.
fn all(items: &[String], done: &str, mut work: impl FnMut(&str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut failures: Vec<anyhow::Error> = Vec::new();
    for item in items {
        if let Err(error) = work(item) {
            failures.push(error.context(format!("{item} cannot be {done}")));
        }
    }
    let last = failures.pop();
    for error in failures {
        crate::cli::complain(&crate::cli::explained(&error));
    }
    last.map_or(Ok(()), Err)
}
