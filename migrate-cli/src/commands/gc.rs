//! `parallax gc`.

use std::time::Duration;

use parallax_format::digest::ImageId;
use parallax_store::{ChunkGarbage, Collected, Collection, Garbage, Store};
use serde::Serialize;

use crate::global::Global;
use crate::output::{print, print_json};
use crate::units;

/// Options of `parallax gc`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Show what would be removed, without changing anything
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Retention time of SquashFS files after their removal, for steps that still use them: 90s, 30min, 24h, 7d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = units::parse_time)]
    grace: Duration,
    /// On a file system without locks: break the store's lock and remove the files of all writers. First make sure that no
    /// writer is running on any machine
    #[arg(long)]
    break_lock: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// The JSON form. Future versions only add fields.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// `true` for a dry run.
    dry_run: bool,
    /// Removed files and entries.
    removed: Vec<Row<'a>>,
    /// Total size of the removed files in bytes, chunks included.
    freed: u64,
    /// Removed chunks.
    chunks: Chunks,
    /// Ids of images whose names were repaired.
    repaired: &'a [ImageId],
    /// Number of running writers, whose files were kept.
    writers: usize,
    /// `true` if the store's file system has no locks, so that writers use a lock file.
    no_locks: bool,
}

#[derive(Debug, Serialize)]
struct Chunks {
    /// Their number.
    removed: usize,
    /// Size on disk in bytes.
    bytes: u64,
    /// Number of running writers of chunks. While there are any, chunks are not removed.
    writers: usize,
}

#[derive(Debug, Serialize)]
struct Row<'a> {
    /// Path relative to the store; for an entry of one of Podman's lists the list, a colon and the id.
    path: &'a str,
    /// Size on disk in bytes.
    bytes: u64,
}

/// Runs the command.
///
/// # Errors
/// If the store cannot be read or changed.
pub(crate) fn run(global: &Global, options: &Options) -> anyhow::Result<()> {
    let store = Store::open(&global.existing_store()?)?;
    let collection = Collection { dry_run: options.dry_run, grace: options.grace, break_lock: options.break_lock };
    let collected = store.collect(collection)?;
    let chunks = store.collect_chunks(collection, &collected.garbage)?;
    let freed = collected.garbage.iter().map(|garbage| garbage.bytes).sum::<u64>() + chunks.bytes;
    if options.json {
        let row = |garbage: &'_ Garbage| -> (String, u64) { (garbage.path.clone(), garbage.bytes) };
        let rows: Vec<_> = collected.garbage.iter().map(row).collect();
        return print_json(&Report {
            dry_run: options.dry_run,
            removed: rows.iter().map(|(path, bytes)| Row { path, bytes: *bytes }).collect(),
            freed,
            chunks: Chunks { removed: chunks.chunks, bytes: chunks.bytes, writers: chunks.writers },
            repaired: &collected.repaired,
            writers: collected.live,
            no_locks: collected.no_locks,
        });
    }
    if !global.quiet {
        print(&text(&collected, &chunks, options.dry_run, freed))?;
    }
    Ok(())
}

fn text(collected: &Collected, chunks: &ChunkGarbage, dry_run: bool, freed: u64) -> String {
    let (removes, repairs) = if dry_run { ("would remove", "would repair") } else { ("removed", "repaired") };
    let mut lines = Vec::new();
    for Garbage { path, bytes } in &collected.garbage {
        lines.push(format!("{removes} {path} ({})", units::bytes(*bytes)));
    }
    if chunks.chunks > 0 {
        lines.push(format!("{removes} {} ({})", units::count(chunks.chunks, "chunk"), units::bytes(chunks.bytes)));
    }
    for id in &collected.repaired {
        lines.push(format!("{repairs} the names of {}", id.short()));
    }
    if collected.no_locks {
        lines.push("the file system has no locks: writers use the lock file parallax/lock".to_owned());
    }
    if collected.live > 0 {
        lines.push(format!("{} at work: their files are left alone", units::count(collected.live, "writer")));
    }
    if chunks.writers > 0 {
        lines.push(format!("{} of chunks at work: no chunk is removed", units::count(chunks.writers, "writer")));
    }
    lines.push(format!("{} {}, {}", removes, units::count(collected.garbage.len(), "thing"), units::bytes(freed)));
    lines.join("\n") + "\n"
}
