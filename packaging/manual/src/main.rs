//! Makes the manual pages, the shells' completions and the example configuration from the code: see `make docs`.
//!
//! - [`commands`]: the pages of programs that clap describes, and completions.
//! - [`keys`]: what the configuration's keys mean, and their values.
//! - [`config_page`]: the page parallax.toml(5).
//! - [`example`]: the file etc/parallax.toml.
//! - [`text`]: how paragraphs are written.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser as _;

mod commands;
mod config_page;
mod example;
mod keys;
mod text;

/// Writes the manual pages, completions and the example configuration to a directory.
#[derive(Debug, clap::Parser)]
struct Args {
    /// The directory; it is made if it does not exist.
    directory: PathBuf,
}

/// A file to write: its path below the directory, and its content.
struct Output {
    path: String,
    content: Vec<u8>,
}

/// Every file.
fn outputs() -> anyhow::Result<Vec<Output>> {
    let mut outputs = commands::pages()?;
    outputs.push(Output { path: "man/parallax.toml.5".to_owned(), content: config_page::render()?.into_bytes() });
    outputs.extend(commands::completions());
    outputs.push(Output { path: "parallax.toml".to_owned(), content: example::render()?.into_bytes() });
    Ok(outputs)
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    for output in outputs()? {
        let path = args.directory.join(output.path);
        let parent = path.parent().unwrap_or(&args.directory);
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        fs::write(&path, output.content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
