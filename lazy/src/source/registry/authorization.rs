//! Authorization at a registry: the password of the site, or the token that a server gives for it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

use super::super::http::{Answer, Client};
use super::super::private;
use crate::source::SourceError;

/// Maximum size of a token server's answer in bytes.
const MAX_TOKEN: usize = 64 << 10;

/// Authorization for one repository.
#[derive(Debug)]
pub(super) struct Authorization {
    /// File with the site's credentials, in the format of `podman login`.
    file: Option<PathBuf>,
    /// The registry, and the repository in it.
    registry: String,
    repository: String,
    /// Whether the registry, and thus the password, may be asked without TLS.
    insecure: bool,
    /// The header that was accepted last.
    header: Mutex<Option<String>>,
}

/// The answer of a server of tokens.
#[derive(Deserialize)]
struct Token {
    #[serde(alias = "access_token")]
    token: String,
}

/// A file that `podman login` writes.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
}

/// What a server wants.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Authorization {
    pub(super) fn new(file: Option<PathBuf>, registry: &str, repository: &str, insecure: bool) -> Self {
        let (registry, repository) = (registry.to_owned(), repository.to_owned());
        Self { file, registry, repository, insecure, header: Mutex::default() }
    }

    /// Reads the credentials, base64 of `USER:PASSWORD`; `None` if the file has none for the repository.
    pub(super) fn credentials(&self) -> Result<Option<String>, String> {
        let Some(file) = &self.file else { return Ok(None) };
        let failed = |reason: String| format!("cannot use the credentials in {}: {reason}", file.display());
        let text = private::read(file).map_err(failed)?;
        find(&text, &self.registry, &self.repository).map_err(failed)
    }

    /// Gets a URL of the registry; its answer has this status if it is good.
    pub(super) fn get(
        &self,
        client: &Client,
        url: &str,
        good: u16,
        max: usize,
        headers: &[(&str, &str)],
    ) -> Result<Answer, SourceError> {
        let used = self.header();
        let answer = client.exchange(url, good, max, || with(headers, used.as_deref()))?;
        let Some(challenge) = answer.challenge.as_deref().filter(|_| answer.status == 401) else { return Ok(answer) };
        // Tokens end, and passwords are replaced.
        let header = self.renew(client, challenge)?;
        if header == used {
            return Ok(answer);
        }
        let answer = client.exchange(url, good, max, || with(headers, header.as_deref()))?;
        if answer.status != 401 {
            *self.header.lock().unwrap_or_else(PoisonError::into_inner) = header;
        }
        Ok(answer)
    }

    fn header(&self) -> Option<String> {
        self.header.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the header that a challenge asks for.
    fn renew(&self, client: &Client, challenge: &str) -> Result<Option<String>, SourceError> {
        let password = self.credentials().map_err(SourceError::Denied)?.map(|password| format!("Basic {password}"));
        let Some(challenge) = Challenge::parse(challenge) else {
            return Err(SourceError::Permanent(format!("unknown authorization: {challenge}")));
        };
        let Challenge::Bearer { realm, service, scope } = challenge else { return Ok(password) };
        let is_safe = realm.starts_with("https://") || (self.insecure && realm.starts_with("http://"));
        if !is_safe {
            return Err(SourceError::Permanent(format!("the server of tokens has no TLS: {realm}")));
        }
        let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.repository));
        let query = [("service", service.as_deref()), ("scope", Some(scope.as_str()))];
        let query = query.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", encoded(value?))));
        let separator = if realm.contains('?') { '&' } else { '?' };
        let url = format!("{realm}{separator}{}", query.collect::<Vec<_>>().join("&"));
        let answer = client.exchange(&url, 200, MAX_TOKEN, || with(&[], password.as_deref()))?;
        if answer.status != 200 {
            return Err(SourceError::Denied(format!(
                "the server of tokens denies access: HTTP status {}",
                answer.status
            )));
        }
        let token: Token = serde_json::from_slice(&answer.body)
            .map_err(|error| SourceError::Permanent(format!("the server of tokens gives none: {error}")))?;
        Ok(Some(format!("Bearer {}", token.token)))
    }
}

/// Returns headers, with that for the authorization.
fn with(headers: &[(&str, &str)], authorization: Option<&str>) -> Vec<(String, String)> {
    let authorization = authorization.map(|value| ("authorization", value));
    headers.iter().copied().chain(authorization).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Finds the credentials for a repository: those of its own, then of the paths above it, then of the registry.
fn find(text: &str, registry: &str, repository: &str) -> Result<Option<String>, String> {
    let file: File = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut key = format!("{registry}/{repository}");
    loop {
        if let Some(auth) = file.auths.get(&key).and_then(|entry| entry.auth.clone()) {
            let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
            return if auth.bytes().all(is_base64) {
                Ok(Some(auth))
            } else {
                Err(format!("the credentials for {key} are not base64"))
            };
        }
        let Some((above, _)) = key.rsplit_once('/') else { return Ok(None) };
        key = above.to_owned();
    }
}

/// Encodes a value for a query.
fn encoded(value: &str) -> String {
    value.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~:/,".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

impl Challenge {
    /// Parses the header `WWW-Authenticate`.
    fn parse(header: &str) -> Option<Self> {
        let (scheme, mut rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        while let Some((name, behind)) = rest.split_once("=\"") {
            let (value, behind) = behind.split_once('"')?;
            let field = match name.trim_matches([' ', ',']) {
                "realm" => &mut realm,
                "service" => &mut service,
                "scope" => &mut scope,
                _ => &mut None,
            };
            *field = Some(value.to_owned());
            rest = behind;
        }
        Some(Self::Bearer { realm: realm?, service, scope })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_parsed() {
        let header = "Bearer realm=\"https://auth.site/token\",service=\"registry.site\", scope=\"repository:a/b:pull,push\",error=\"x\"";
        let bearer = |service: Option<&str>, scope: Option<&str>| {
            let (service, scope) = (service.map(str::to_owned), scope.map(str::to_owned));
            Some(Challenge::Bearer { realm: "https://auth.site/token".to_owned(), service, scope })
        };
        assert_eq!(Challenge::parse(header), bearer(Some("registry.site"), Some("repository:a/b:pull,push")));
        assert_eq!(Challenge::parse("bearer realm=\"https://auth.site/token\""), bearer(None, None));
        assert_eq!(Challenge::parse("Basic realm=\"x\""), Some(Challenge::Basic));
        for header in ["", "Negotiate", "Bearer", "Bearer realm=\"x"] {
            assert_eq!(Challenge::parse(header), None, "{header}");
        }
        assert_eq!(encoded("repository:a/b:pull a&b"), "repository:a/b:pull%20a%26b");
    }

    #[test]
    fn the_credentials_of_the_longest_path_are_used() {
        let text = r#"{"auths": {"h:5000": {"auth": "aDo="}, "h:5000/a/b": {"auth": "YjpwK3E="}, "h:5000/a": {}, "x": {"auth": "\r\n"}}}"#;
        let found = |registry, repository| find(text, registry, repository).unwrap();
        assert_eq!(found("h:5000", "a/b/c").as_deref(), Some("YjpwK3E="));
        assert_eq!(found("h:5000", "a/bc").as_deref(), Some("aDo="));
        assert_eq!(found("h", "a"), None);
        assert!(find(text, "x", "a").is_err() && find("{", "x", "a").is_err());
    }
}
