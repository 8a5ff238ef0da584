//! The command line.

use std::path::PathBuf;

/// Serves layers of images to the Parallax node agent whose chunks are fetched as they are read.
#[derive(Debug, Clone, PartialEq, Eq, clap::Parser)]
#[command(name = "parallax-lazy", version)]
pub struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = parallax_config::DEFAULT_PATH)]
    pub config: PathBuf,
    /// Log level (error, warn, info, debug or trace), or a filter.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// Serves one layer to the mount program instead, by the index of its chunks. The standard input is the device of its file.
    #[arg(long, value_name = "FILE", requires = "chunk_store", hide = true)]
    pub index: Option<PathBuf>,
    /// The chunk store beside that index.
    #[arg(long, value_name = "DIRECTORY", requires = "index", hide = true)]
    pub chunk_store: Option<PathBuf>,
}
