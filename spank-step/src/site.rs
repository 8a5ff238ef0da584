//! The site's configuration, where options are typed.

use std::io;

use parallax_config::{Config, ConfigError};
use slurm_spank::SpankHandle;

use crate::job::Setting;

/// The site's configuration, as far as this host has it. An error of it matters to steps with an image only.
#[derive(Debug)]
pub(crate) struct Site {
    config: Result<Option<Config>, String>,
    has_pyxis_names: bool,
}

impl Site {
    /// Reads the plugin's arguments and the configuration.
    pub(crate) fn read(spank: &SpankHandle) -> Self {
        let setting = Setting::read(spank);
        let has_pyxis_names = setting.as_ref().is_ok_and(|setting| setting.pyxis_names);
        let config = setting.and_then(|setting| match Config::load(&setting.config) {
            Ok(config) => Ok(Some(config)),
            // A host that only submits may have no configuration; the nodes check again.
            Err(ConfigError::Read { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        });
        Self { config, has_pyxis_names }
    }

    /// The configuration; `None` on a host without one.
    ///
    /// # Errors
    /// A message for the user: it cannot be read or is invalid, or the plugin's arguments are.
    pub(crate) fn config(&self) -> Result<Option<&Config>, String> {
        self.config.as_ref().map(Option::as_ref).map_err(Clone::clone)
    }

    /// Whether the plugin's arguments turn on pyxis' names.
    pub(crate) fn has_pyxis_names(&self) -> bool {
        self.has_pyxis_names
    }
}
