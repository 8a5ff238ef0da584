//! The chunk stores of the configuration.

use std::path::Path;
use std::sync::Arc;

use parallax_config::Lazy;

use crate::source::directory::DirectorySource;
use crate::source::http::{HttpOptions, HttpSource};
use crate::source::registry::{self, RegistryOptions, RegistrySource};
use crate::source::s3::{S3Options, S3Source, SCHEME};
use crate::source::settings::SettingsError;
use crate::source::ssh::{SCHEMES, SshOptions, SshSource};
use crate::source::{Counted, Sources};

/// Returns the configured chunk stores, in their order.
///
/// # Errors
/// [`SettingsError`].
pub fn sources(config: &Lazy) -> Result<Sources, SettingsError> {
    each(config).into_iter().collect::<Result<_, _>>().map(Sources::new)
}

/// Returns the same, each with the reason if it cannot be used.
pub fn each(config: &Lazy) -> Vec<Result<Arc<Counted>, SettingsError>> {
    let options = HttpOptions { ca_file: config.ca_file().map(Path::to_owned), ..HttpOptions::default() };
    let set = |value: &String| Some(value.clone()).filter(|value| !value.is_empty());
    let s3 = S3Options {
        endpoint: set(&config.s3_endpoint),
        region: set(&config.s3_region),
        virtual_host: !config.s3_path_style,
        credentials: config.s3_credentials().map(Path::to_owned),
    };
    let ssh = SshOptions {
        known_hosts: config.ssh_known_hosts().map(Path::to_owned),
        key: config.ssh_key().map(Path::to_owned),
    };
    let registries = RegistryOptions {
        credentials: config.registry_credentials().map(Path::to_owned),
        insecure: config.insecure_registries.clone(),
    };
    let source = |name: &String| {
        Ok(if name.starts_with('/') {
            Counted::new(DirectorySource::new(Path::new(name)))
        } else if name.starts_with(SCHEME) {
            Counted::new(S3Source::new(name, &s3, &options)?)
        } else if SCHEMES.iter().any(|scheme| name.starts_with(scheme)) {
            Counted::new(SshSource::new(name, &ssh)?)
        } else if name.starts_with(registry::SCHEME) {
            Counted::new(RegistrySource::new(name, &registries, &options)?)
        } else {
            Counted::new(HttpSource::new(name, &options)?)
        })
    };
    config.sources.iter().map(source).collect()
}
