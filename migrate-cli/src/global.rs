//! The options that all commands have.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use parallax_config::Config;
use parallax_format::layout;

/// Options of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Image store [default: the first store in the configuration]
    #[arg(long, global = true, value_name = "DIR", env = "PARALLAX_STORE")]
    store: Option<PathBuf>,
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE", default_value = parallax_config::DEFAULT_PATH)]
    pub config: PathBuf,
    /// Increase verbosity (-v info, -vv debug, -vvv trace)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Show errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Format of messages and progress on standard error; json: one object per line
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text", value_enum)]
    pub log_format: LogFormat,
}

/// Format of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Plain text
    Text,
    /// JSON objects, one per line
    Json,
}

impl Global {
    /// Returns the default options with this store.
    pub fn of_store(store: &Path) -> Self {
        Self {
            store: Some(store.to_owned()),
            config: parallax_config::DEFAULT_PATH.into(),
            verbose: 0,
            quiet: false,
            log_format: LogFormat::Text,
        }
    }

    /// Returns the store to work on.
    ///
    /// # Errors
    /// If `--store` was not given and the configuration cannot be read or has no store.
    pub fn store(&self) -> anyhow::Result<PathBuf> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        let config = Config::load(&self.config).context("no --store given and no valid configuration")?;
        let first = config.stores.into_iter().next();
        first.with_context(|| format!("{} has no store; specify one with --store DIR", self.config.display()))
    }

    /// Returns the store to read.
    ///
    /// # Errors
    /// If the directory does not exist or is not a store.
    pub fn existing_store(&self) -> anyhow::Result<PathBuf> {
        let store = self.store()?;
        // Another tool's store has Podman's lists only.
        let parts = [layout::RECORDS, layout::IMAGES_JSON];
        let is_store = |path: &Path| parts.iter().any(|part| path.join(part).exists());
        anyhow::ensure!(
            is_store(&store),
            "{} is not an image store; create it with parallax migrate, or specify another one with --store DIR",
            store.display()
        );
        Ok(store)
    }
}
