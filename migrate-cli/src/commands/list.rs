//! `parallax list`.

use parallax_store::reader::{self, Listed};
use serde::Serialize;

use super::{print, print_json};
use crate::cli::Global;
use crate::units;

/// What `parallax list` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Print a JSON array instead, one object for an image
    #[arg(long)]
    json: bool,
}

/// One image in the JSON form. Fields are only ever added.
#[derive(Debug, Serialize)]
struct Row<'a> {
    /// The image id, 64 hexadecimal digits.
    id: &'a str,
    /// The manifest's digest, `sha256:…`.
    digest: &'a str,
    /// Fully qualified names, sorted; empty if another image took them over.
    names: Vec<String>,
    /// When the image was built, RFC 3339.
    created: &'a str,
    /// How many layers it has.
    layers: usize,
    /// The size of its unpacked layers in bytes, as `podman images` shows it.
    size: u64,
    /// What its SquashFS files take in bytes, shared ones included.
    stored: u64,
}

impl<'a> Row<'a> {
    fn new(listed: &'a Listed) -> Self {
        let record = &listed.record;
        let (size, stored) = units::sizes(record);
        Self {
            id: &record.id,
            digest: &record.digest,
            names: listed.names.iter().map(ToString::to_string).collect(),
            created: &record.created,
            layers: record.layers.len(),
            size,
            stored,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// If the store cannot be read.
pub fn run(global: &Global, options: &Options) -> anyhow::Result<()> {
    let listing = reader::list(&global.existing_store()?)?;
    for (path, error) in &listing.damaged {
        tracing::warn!("{} cannot be used: {error}", path.display());
    }
    let rows: Vec<Row<'_>> = listing.images.iter().map(Row::new).collect();
    if options.json { print_json(&rows) } else { print(&table(&listing.images, &rows)) }
}

fn table(images: &[Listed], rows: &[Row<'_>]) -> String {
    const HEADER: [&str; 6] = ["NAME", "ID", "LAYERS", "CREATED", "SIZE", "STORED"];
    let mut lines = vec![HEADER.map(str::to_owned)];
    for (image, row) in images.iter().zip(rows) {
        let names: Vec<String> = match image.names.as_slice() {
            [] => vec!["<none>".to_owned()],
            names => names.iter().map(ToString::to_string).collect(),
        };
        lines.extend(names.into_iter().map(|name| {
            [
                name,
                row.id.chars().take(12).collect(),
                row.layers.to_string(),
                row.created.chars().take(10).collect(),
                units::bytes(row.size),
                units::bytes(row.stored),
            ]
        }));
    }
    let widths: Vec<usize> =
        (0..HEADER.len()).map(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or(0)).collect();
    lines.iter().fold(String::new(), |mut text, line| {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
        text
    })
}
