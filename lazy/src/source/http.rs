//! A chunk store behind HTTP or HTTPS: any server of static files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parallax_chunks::ChunkId;
use parallax_format::digest::Sha256;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Proxy};

use super::settings::SettingsError;
use super::{Source, SourceError};

/// Longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Number of connections to a server that are kept: about as many as chunks are fetched at a time.
const MAX_IDLE_CONNECTIONS: usize = 40;
/// Maximum size in bytes of what is read of an error.
const MAX_ERROR: u64 = 4096;
/// Sent to servers.
const USER_AGENT: &str = concat!("parallax-lazy/", env!("CARGO_PKG_VERSION"));

/// The way to a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HttpProxy {
    /// As `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` of the environment say.
    #[default]
    Environment,
    /// Without a proxy.
    Direct,
    /// By the proxy with this URL, which must permit `CONNECT` to the server's port.
    Url(String),
}

/// Settings of a source.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// The proxy.
    pub proxy: HttpProxy,
    /// File with the certificates of the authorities to trust, in PEM format [default: the system's].
    pub ca_file: Option<PathBuf>,
    /// Timeout of a connection attempt.
    pub connect_timeout: Duration,
    /// Timeout of a request, from its start to the last byte.
    pub timeout: Duration,
    /// Number of attempts, at least 1, if the server does not answer or is busy.
    pub attempts: u32,
    /// Pause before the second attempt; doubled before each further one, up to 5 s.
    pub pause: Duration,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            proxy: HttpProxy::default(),
            ca_file: None,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
            attempts: 4,
            pause: Duration::from_millis(100),
        }
    }
}

/// The way to servers.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    attempts: u32,
    pause: Duration,
}

impl Client {
    /// Makes a client. No server is asked yet.
    pub(crate) fn new(options: &HttpOptions) -> Result<Self, SettingsError> {
        let proxy = match &options.proxy {
            HttpProxy::Environment => Proxy::try_from_env(),
            HttpProxy::Direct => None,
            HttpProxy::Url(proxy) => Some(Proxy::new(proxy).map_err(|_| SettingsError::Proxy(proxy.clone()))?),
        };
        let roots = match &options.ca_file {
            Some(file) => RootCerts::from(certificates(file)?),
            None => RootCerts::PlatformVerifier,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder().root_certs(roots).unversioned_rustls_crypto_provider(provider).build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .proxy(proxy)
            .user_agent(USER_AGENT)
            .http_status_as_error(false)
            .max_idle_connections(MAX_IDLE_CONNECTIONS)
            .max_idle_connections_per_host(MAX_IDLE_CONNECTIONS)
            .timeout_connect(Some(options.connect_timeout))
            .timeout_global(Some(options.timeout))
            .build();
        Ok(Self { agent: config.new_agent(), attempts: options.attempts.max(1), pause: options.pause })
    }

    /// Gets at most `max` bytes from a URL, with these headers. A server that does not answer or is busy is asked again.
    pub(crate) fn get(
        &self,
        url: &str,
        max: usize,
        headers: impl Fn() -> Vec<(String, String)>,
    ) -> Result<Vec<u8>, SourceError> {
        let answer = self.exchange(url, 200, max, headers)?;
        if answer.is_good { Ok(answer.body) } else { Err(answer.error()) }
    }

    /// As [`Self::get`], with the status that a good answer has. Answers with others are returned too, unless they may pass.
    pub(crate) fn exchange(
        &self,
        url: &str,
        good: u16,
        max: usize,
        headers: impl Fn() -> Vec<(String, String)>,
    ) -> Result<Answer, SourceError> {
        let mut pause = self.pause;
        for _ in 1..self.attempts {
            match self.ask(url, good, max, headers()) {
                Err(SourceError::Temporary(_)) => {}
                answer => return answer,
            }
            // Nodes that failed together do not return together.
            thread::sleep(pause.mul_f64(fastrand::f64() + 0.5));
            pause = (pause * 2).min(MAX_PAUSE);
        }
        self.ask(url, good, max, headers())
    }

    /// Asks once.
    fn ask(&self, url: &str, good: u16, max: usize, headers: Vec<(String, String)>) -> Result<Answer, SourceError> {
        let request =
            headers.into_iter().fold(self.agent.get(url), |request, (name, value)| request.header(name, value));
        let mut response = request.call().map_err(|error| failure(&error))?;
        let status = response.status().as_u16();
        if matches!(status, 408 | 425 | 429 | 500 | 502..=504) {
            return Err(SourceError::Temporary(format!("HTTP status {status}")));
        }
        let challenge = response.headers().get("www-authenticate").and_then(|value| value.to_str().ok());
        let challenge = challenge.map(str::to_owned);
        let is_good = status == good;
        let limit = if is_good { max as u64 } else { MAX_ERROR };
        let body = response.body_mut().with_config().limit(limit).read_to_vec();
        // What an error says is not needed.
        let body = if is_good { body.map_err(|error| failure(&error))? } else { body.unwrap_or_default() };
        Ok(Answer { status, is_good, body, challenge })
    }
}

/// An answer of a server.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// Whether it has the status that was asked for.
    pub(crate) is_good: bool,
    /// The body; that of an error is empty if it is large.
    pub(crate) body: Vec<u8>,
    /// How the server wants requests to be authorized.
    pub(crate) challenge: Option<String>,
}

impl Answer {
    /// Returns the error that an answer is which is not good.
    pub(crate) fn error(&self) -> SourceError {
        let Self { status, body, .. } = self;
        let text = error_code(body)
            .map_or_else(|| format!("HTTP status {status}"), |code| format!("HTTP status {status} ({code})"));
        match status {
            404 | 410 => SourceError::NotFound,
            401 | 403 => SourceError::Denied(text),
            _ => SourceError::Permanent(text),
        }
    }
}

/// Returns what S3 says in the body of an error: `<Code>SignatureDoesNotMatch</Code>`.
fn error_code(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    let is_code = (1..=64).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_code.then(|| code.to_owned())
}

/// The chunks of a URL, such as `https://images.site/layers/default.castr`.
#[derive(Debug)]
pub struct HttpSource {
    client: Client,
    url: String,
}

impl HttpSource {
    /// Returns the source. The server is not asked yet.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn new(url: &str, options: &HttpOptions) -> Result<Self, SettingsError> {
        let rest = ["http://", "https://"].iter().find_map(|scheme| url.strip_prefix(scheme));
        let host = rest.and_then(|rest| rest.split('/').next()).unwrap_or_default();
        if host.is_empty() || host.contains('@') || url.contains(['?', '#', ' ']) {
            return Err(SettingsError::Url(url.to_owned()));
        }
        Ok(Self { client: Client::new(options)?, url: url.trim_end_matches('/').to_owned() })
    }
}

impl Source for HttpSource {
    fn file(&self, _: &Sha256, id: &ChunkId, max: usize) -> Result<Vec<u8>, SourceError> {
        self.client.get(&format!("{}/{}", self.url, id.path()), max, Vec::new)
    }

    fn name(&self) -> &str {
        &self.url
    }
}

/// Reads the certificates of authorities.
fn certificates(file: &Path) -> Result<Vec<Certificate<'static>>, SettingsError> {
    let failed = |reason: String| SettingsError::Certificates { path: file.to_owned(), reason };
    let bytes = fs::read(file).map_err(|error| failed(error.to_string()))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&bytes) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| failed(error.to_string()))? {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() { Err(failed("it has none".to_owned())) } else { Ok(certificates) }
}

/// Tells failures that may pass from others.
fn failure(error: &ureq::Error) -> SourceError {
    use ureq::Error::{BadUri, BodyExceedsLimit, InvalidProxyUrl, Pem, Rustls, Tls, TooManyRedirects};
    let text = error.to_string();
    match error {
        // A certificate does not become another one by asking again.
        ureq::Error::Io(error) if is_about_tls(error) => SourceError::Permanent(text),
        BadUri(_) | BodyExceedsLimit(_) | InvalidProxyUrl | Pem(_) | Rustls(_) | Tls(_) | TooManyRedirects => {
            SourceError::Permanent(text)
        }
        _ => SourceError::Temporary(text),
    }
}

fn is_about_tls(error: &io::Error) -> bool {
    error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).is_some()
}

#[cfg(test)]
mod tests;
