//! The chunk stores of the configuration.

use std::path::Path;

use parallax_config::Lazy;

use crate::source::directory::DirectorySource;
use crate::source::http::{HttpError, HttpOptions, HttpSource};
use crate::source::{Counted, Sources};

/// Returns the configured chunk stores, in their order.
///
/// # Errors
/// [`HttpError`].
pub fn sources(config: &Lazy) -> Result<Sources, HttpError> {
    let options = HttpOptions { ca_file: config.ca_file().map(Path::to_owned), ..HttpOptions::default() };
    let source = |name: &String| {
        Ok(if name.starts_with('/') {
            Counted::new(DirectorySource::new(Path::new(name)))
        } else {
            Counted::new(HttpSource::new(name, &options)?)
        })
    };
    config.sources.iter().map(source).collect::<Result<_, _>>().map(Sources::new)
}
