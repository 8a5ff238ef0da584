//! A chunk store in a bucket of a server that speaks S3's protocol.

mod credentials;
mod signature;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use parallax_chunks::ChunkId;
use parallax_format::digest::Sha256;

use self::credentials::{Credentials, Origin, variable};
use self::signature::Request;
use super::http::{Client, HttpOptions};
use super::settings::SettingsError;
use super::{Source, SourceError};

/// The scheme of these chunk stores.
pub(crate) const SCHEME: &str = "s3://";
/// The region that servers expect which have none.
const DEFAULT_REGION: &str = "us-east-1";

/// Settings of a source. Without one, the environment is searched as AWS's tools do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct S3Options {
    /// URL of the server [default: Amazon's in the region].
    pub(crate) endpoint: Option<String>,
    /// The region.
    pub(crate) region: Option<String>,
    /// Whether the bucket is in the host's name in place of the path.
    pub(crate) virtual_host: bool,
    /// File with the credentials, in the format of AWS's tools.
    pub(crate) credentials: Option<PathBuf>,
}

/// The chunks of a bucket, such as `s3://images/layers/default.castr`.
#[derive(Debug)]
pub(crate) struct S3Source {
    name: String,
    client: Client,
    /// Scheme and host.
    server: String,
    host: String,
    /// Path of the chunk store on the server, without a slash at its end.
    path: String,
    region: String,
    origin: Origin,
    credentials: Mutex<Option<Arc<Credentials>>>,
}

impl S3Source {
    /// Returns the source. The server is not asked yet.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub(crate) fn new(url: &str, options: &S3Options, http: &HttpOptions) -> Result<Self, SettingsError> {
        let rest = url.strip_prefix(SCHEME).ok_or_else(|| SettingsError::Bucket(url.to_owned()))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/');
        if !is_bucket(bucket) || !is_prefix(prefix) {
            return Err(SettingsError::Bucket(url.to_owned()));
        }
        let region =
            options.region.clone().or_else(|| variable("AWS_REGION")).or_else(|| variable("AWS_DEFAULT_REGION"));
        let region = region.unwrap_or_else(|| DEFAULT_REGION.to_owned());
        let endpoint = options.endpoint.clone().or_else(|| variable("AWS_ENDPOINT_URL_S3"));
        let endpoint = endpoint.or_else(|| variable("AWS_ENDPOINT_URL"));
        let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
        let endpoint = endpoint.trim_end_matches('/');
        let (scheme, host) = endpoint.split_once("://").unwrap_or_default();
        let default_port = match scheme {
            "https" => ":443",
            "http" => ":80",
            _ => return Err(SettingsError::Url(endpoint.to_owned())),
        };
        let host = host.strip_suffix(default_port).unwrap_or(host);
        if host.is_empty() || host.contains(['/', '@', '?', '#', ' ']) {
            return Err(SettingsError::Url(endpoint.to_owned()));
        }
        let (host, base) = if options.virtual_host {
            (format!("{bucket}.{host}"), String::new())
        } else {
            (host.to_owned(), format!("/{bucket}"))
        };
        let path = if prefix.is_empty() { base } else { format!("{base}/{prefix}") };
        let origin = Origin::find(options.credentials.as_deref(), variable);
        let credentials = origin.read().map_err(SettingsError::Credentials)?;
        Ok(Self {
            name: url.trim_end_matches('/').to_owned(),
            client: Client::new(http)?,
            server: format!("{scheme}://{host}"),
            host,
            path,
            region,
            origin,
            credentials: Mutex::new(credentials.map(Arc::new)),
        })
    }

    /// Asks with these credentials.
    fn get(&self, id: &ChunkId, max: usize, credentials: Option<&Credentials>) -> Result<Vec<u8>, SourceError> {
        let path = format!("{}/{}", self.path, id.path());
        let headers = || {
            // Each attempt has its time.
            let request = Request { host: &self.host, path: &path, region: &self.region, time: Timestamp::now() };
            credentials.map_or_else(Vec::new, |credentials| request.headers(credentials, &[]))
        };
        self.client.get(&format!("{}{path}", self.server), max, headers)
    }

    /// Reads the credentials again. Returns them if they are others than these.
    fn renewed(&self, used: Option<&Credentials>) -> Option<Arc<Credentials>> {
        let read = match self.origin.read() {
            Ok(read) => read?,
            Err(reason) => {
                tracing::warn!(source = self.name, reason, "the credentials are not read again");
                return None;
            }
        };
        if Some(&read) == used {
            return None;
        }
        let renewed = Arc::new(read);
        *self.credentials() = Some(Arc::clone(&renewed));
        Some(renewed)
    }

    fn credentials(&self) -> MutexGuard<'_, Option<Arc<Credentials>>> {
        self.credentials.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for S3Source {
    fn file(&self, _: &Sha256, id: &ChunkId, max: usize) -> Result<Vec<u8>, SourceError> {
        let credentials = self.credentials().clone();
        match self.get(id, max, credentials.as_deref()) {
            // Temporary credentials end, and keys are replaced.
            Err(error @ SourceError::Denied(_)) => match self.renewed(credentials.as_deref()) {
                Some(renewed) => self.get(id, max, Some(&renewed)),
                None => Err(error),
            },
            answer => answer,
        }
    }

    fn name(&self) -> &str {
        &self.name
    }
}

fn is_bucket(name: &str) -> bool {
    (3..=63).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

/// Whether the characters need no encoding, by which signatures of clients and servers could differ.
fn is_prefix(prefix: &str) -> bool {
    let is_plain = |part: &str| {
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b".-_~".contains(&byte);
        !part.is_empty() && part != "." && part != ".." && part.bytes().all(is_good)
    };
    prefix.is_empty() || prefix.split('/').all(is_plain)
}

#[cfg(test)]
mod tests;
