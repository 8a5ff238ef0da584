//! `parallax gc`.

use std::time::Duration;

use parallax_format::digest;
use parallax_store::{Collected, Collection, Garbage, Store};
use serde::Serialize;

use super::{print, print_json};
use crate::cli::Global;
use crate::units;

/// What `parallax gc` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Show what would be removed, and change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// How long SquashFS files are kept after their removal, for steps that use them: 90s, 30min, 24h, 7d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = units::parse_time)]
    grace: Duration,
    /// On a file system without locks: take the store's lock from whoever has it, and remove the files of all writers. Make
    /// sure first that none is at work, on any machine
    #[arg(long)]
    break_lock: bool,
    /// Print a JSON object instead
    #[arg(long)]
    json: bool,
}

/// The JSON form. Fields are only ever added.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// Whether nothing was changed.
    dry_run: bool,
    /// What was removed.
    removed: Vec<Row<'a>>,
    /// What all of it took, in bytes.
    freed: u64,
    /// The ids of images whose names were brought in step.
    repaired: &'a [String],
    /// How many writers are at work; their files were left alone.
    writers: usize,
    /// Whether the store's file system has no locks, so that writers take turns by a file.
    no_locks: bool,
}

#[derive(Debug, Serialize)]
struct Row<'a> {
    /// Relative to the store; for an entry of one of Podman's lists the list, a colon and the id.
    path: &'a str,
    /// What it took on disk, in bytes.
    bytes: u64,
}

/// Runs the command.
///
/// # Errors
/// If the store cannot be read or changed.
pub fn run(global: &Global, options: &Options) -> anyhow::Result<()> {
    let store = Store::open(&global.existing_store()?)?;
    let collected =
        store.collect(Collection { dry_run: options.dry_run, grace: options.grace, break_lock: options.break_lock })?;
    let freed = collected.garbage.iter().map(|garbage| garbage.bytes).sum();
    if options.json {
        let row = |garbage: &'_ Garbage| -> (String, u64) { (garbage.path.clone(), garbage.bytes) };
        let rows: Vec<_> = collected.garbage.iter().map(row).collect();
        return print_json(&Report {
            dry_run: options.dry_run,
            removed: rows.iter().map(|(path, bytes)| Row { path, bytes: *bytes }).collect(),
            freed,
            repaired: &collected.repaired,
            writers: collected.live,
            no_locks: collected.no_locks,
        });
    }
    if !global.quiet {
        print(&text(&collected, options.dry_run, freed))?;
    }
    Ok(())
}

fn text(collected: &Collected, dry_run: bool, freed: u64) -> String {
    let (removes, repairs) = if dry_run { ("would remove", "would repair") } else { ("removed", "repaired") };
    let mut lines = Vec::new();
    for Garbage { path, bytes } in &collected.garbage {
        lines.push(format!("{removes} {path} ({})", units::bytes(*bytes)));
    }
    for id in &collected.repaired {
        lines.push(format!("{repairs} the names of {}", digest::short_id(id)));
    }
    if collected.no_locks {
        lines.push("the file system has no locks: writers take turns by the file parallax/lock".to_owned());
    }
    if collected.live > 0 {
        lines.push(format!("{} at work: their files are left alone", units::count(collected.live, "writer")));
    }
    lines.push(format!("{} {}, {}", removes, units::count(collected.garbage.len(), "thing"), units::bytes(freed)));
    lines.join("\n") + "\n"
}
