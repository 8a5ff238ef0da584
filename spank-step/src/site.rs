//! The site's configuration, where options are typed.

use std::io;
use std::path::PathBuf;

use parallax_config::{Config, ConfigError};
use parallax_request::{Request, RequestError, option_of_site};
use slurm_spank::SpankHandle;

use crate::job::Setting;

/// The site's configuration, as far as this host has it. An error of it matters to steps with an image only.
#[derive(Debug)]
pub(crate) struct Site {
    config: Result<Option<Config>, String>,
    path: PathBuf,
    has_pyxis_names: bool,
    makes_step_of_job: bool,
}

impl Site {
    /// Reads the plugin's arguments and the configuration. `makes_step_of_job` is true in an srun in a job.
    pub(crate) fn read(spank: &SpankHandle, makes_step_of_job: bool) -> Self {
        let setting = Setting::read(spank);
        let has_pyxis_names = setting.as_ref().is_ok_and(|setting| setting.pyxis_names);
        let path = setting.as_ref().map(|setting| setting.config.clone()).unwrap_or_default();
        let config = setting.and_then(|setting| match Config::load(&setting.config) {
            Ok(config) => Ok(Some(config)),
            // A host that only submits may have no configuration; the nodes check again.
            Err(ConfigError::Read { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        });
        Self { config, path, has_pyxis_names, makes_step_of_job }
    }

    /// The configuration; `None` on a host without one.
    ///
    /// # Errors
    /// A message for the user: it cannot be read or is invalid, or the plugin's arguments are.
    pub(crate) fn config(&self) -> Result<Option<&Config>, String> {
        self.config.as_ref().map(Option::as_ref).map_err(Clone::clone)
    }

    /// The request that holds where the user has no other.
    ///
    /// # Errors
    /// A message for the user, which names the key.
    pub(crate) fn defaults(&self) -> Result<Request, String> {
        let Some(config) = self.config()? else { return Ok(Request::default()) };
        Request::of_site(&config.run.defaults).map_err(|error| self.wrong("run.defaults", &error))
    }

    /// Refuses what users may not ask for.
    ///
    /// # Errors
    /// A message for the user, which names the key.
    pub(crate) fn check(&self, given: &Request) -> Result<(), String> {
        let Some(config) = self.config()? else { return Ok(()) };
        for name in &config.run.locked {
            let option = option_of_site(name).map_err(|error| self.wrong("run.locked", &error))?;
            if given.uses(option) {
                return Err(format!(
                    "the site does not permit --{} (run.locked in {}); leave it out, also of variables and files with options",
                    option.name(),
                    self.path.display()
                ));
            }
        }
        Ok(())
    }

    fn wrong(&self, key: &str, error: &RequestError) -> String {
        format!("invalid {key} in {}: {error}; the administrator must correct it", self.path.display())
    }

    /// Whether this is an srun in a job, which may have containers of earlier steps.
    pub(crate) fn makes_step_of_job(&self) -> bool {
        self.makes_step_of_job
    }

    /// Whether the plugin's arguments turn on pyxis' names.
    pub(crate) fn has_pyxis_names(&self) -> bool {
        self.has_pyxis_names
    }
}
