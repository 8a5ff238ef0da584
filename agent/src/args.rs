//! The command line.

use std::path::PathBuf;

use crate::logging::Format;

/// The Parallax node agent: mounts image layers for Slurm steps, and cleans up after them.
#[derive(Debug, Clone, PartialEq, Eq, clap::Parser)]
#[command(name = "parallax-agent", version)]
pub struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = parallax_config::DEFAULT_PATH)]
    pub config: PathBuf,
    /// Log level (error, warn, info, debug or trace), or a filter such as `parallax_agent::lease=debug`.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// Log format: plain lines, or JSON objects.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub log_format: Format,
    /// Keep all of root's capabilities and system calls, to find out whether a restriction causes a problem.
    #[arg(long)]
    pub unrestricted: bool,
}
