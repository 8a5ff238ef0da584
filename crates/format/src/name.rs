//! The grammar of image names, after the OCI distribution spec's `<name>` and `<tag>` and Podman's short names.
//!
//! No crate serves: `oci-spec`'s references know no short names, and bring regex and derive_builder into the Slurm plugin.

mod parts;

use std::borrow::Cow;
use std::fmt;

use crate::digest::Digest;

pub use parts::{LOCAL_REGISTRY, split_registry, split_suffix, tag_and_digest};

/// The registry host a short name means, where no local image has it.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The host that serves it.
pub const DEFAULT_REGISTRY_HOST: &str = "registry-1.docker.io";
/// The namespace of `docker.io` names that have none.
const DEFAULT_NAMESPACE: &str = "library";
/// The tag a name without one means.
pub const DEFAULT_TAG: &str = "latest";
/// The distribution spec's limit for a repository name, host included.
const MAX_REPOSITORY: usize = 255;
/// The distribution spec's limit for a tag.
const MAX_TAG: usize = 128;

/// An error of parsing an image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("an image name must not be empty")]
    Empty,
    /// A part of the name breaks the grammar; `what` names the part and what it may hold.
    #[error("\"{name}\" is not an image name: {what}")]
    Grammar {
        /// The text as it was given, control characters escaped.
        name: String,
        /// The part that is wrong, and what is allowed there or what to write instead.
        what: Cow<'static, str>,
    },
}

/// A fully qualified name with its tag, such as `docker.io/library/python:3.12`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageName {
    domain: String,
    path: String,
    tag: String,
}

impl ImageName {
    /// Reads the name an image is to be stored under. A short name gets Podman's domain for local images,
    /// `localhost`, and a name with no tag gets `latest`.
    ///
    /// # Errors
    /// [`NameError`] if `text` is no image name, or has a digest.
    pub fn for_storing(text: &str) -> Result<Self, NameError> {
        let parts = Parts::parse(text)?;
        if parts.digest.is_some() {
            return Err(grammar(text, "a name to store an image under has a tag, not a digest"));
        }
        Self::new(parts.domain.unwrap_or(LOCAL_REGISTRY), parts.path, parts.tag).ok_or_else(|| too_long(text))
    }

    /// Reads a name as a registry client does: a short name means `docker.io`.
    ///
    /// # Errors
    /// [`NameError`] if `text` is no image name. A digest is left out of the result.
    pub fn from_registry(text: &str) -> Result<Self, NameError> {
        let parts = Parts::parse(text)?;
        Self::new(parts.domain.unwrap_or(DEFAULT_REGISTRY), parts.path, parts.tag).ok_or_else(|| too_long(text))
    }

    /// The name of these parts; `None` if it is too long with what was left out.
    pub(crate) fn new(domain: &str, path: &str, tag: Option<&str>) -> Option<Self> {
        let path = if domain == DEFAULT_REGISTRY && !path.contains('/') {
            format!("{DEFAULT_NAMESPACE}/{path}")
        } else {
            path.to_owned()
        };
        let name = Self { domain: domain.to_owned(), path, tag: tag.unwrap_or(DEFAULT_TAG).to_owned() };
        (name.domain.len() + 1 + name.path.len() <= MAX_REPOSITORY).then_some(name)
    }

    /// The short form a user would type: without `localhost/`, `docker.io/library/` or `docker.io/`, and without `:latest`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let path = match self.domain.as_str() {
            LOCAL_REGISTRY => self.path.clone(),
            DEFAULT_REGISTRY => match self.path.strip_prefix("library/") {
                Some(rest) if !rest.contains('/') => rest.to_owned(),
                _ => self.path.clone(),
            },
            domain => format!("{domain}/{}", self.path),
        };
        if self.tag == DEFAULT_TAG { path } else { format!("{path}:{}", self.tag) }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.domain, self.path, self.tag)
    }
}

/// The parts of a name as it was written.
pub(crate) struct Parts<'a> {
    pub(crate) domain: Option<&'a str>,
    pub(crate) path: &'a str,
    pub(crate) tag: Option<&'a str>,
    pub(crate) digest: Option<Digest>,
}

impl<'a> Parts<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        let (repository, suffix) = split_suffix(text);
        let (tag, digest) = tag_and_digest(suffix);
        let digest = digest
            .map(Digest::parse)
            .map(|d| d.ok_or_else(|| grammar(text, "after \"@\" comes sha256: and 64 hexadecimal digits")))
            .transpose()?;
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(grammar(text, "a tag has up to 128 letters, digits, \"_\", \".\" or \"-\""));
        }
        let (domain, path) = split_registry(repository);
        if domain.is_some_and(|domain| !is_domain(domain)) {
            return Err(grammar(text, "the registry must be a host name with an optional port"));
        }
        if repository.len() > MAX_REPOSITORY || !path.split('/').all(is_path_component) {
            return Err(grammar(
                text,
                "a repository is lower-case letters and digits, with \".\", \"_\" or \"-\" between them and \"/\" between its parts",
            ));
        }
        Ok(Self { domain, path, tag, digest })
    }
}

pub(crate) fn grammar(name: &str, what: impl Into<Cow<'static, str>>) -> NameError {
    NameError::Grammar { name: name.escape_debug().to_string(), what: what.into() }
}

pub(crate) fn too_long(name: &str) -> NameError {
    grammar(name, "a repository has up to 255 characters, its registry included")
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let Some(first) = text.bytes().next() else { return false };
    text.len() <= MAX_TAG && word(first) && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let port_ok = port.is_none_or(|p| !p.is_empty() && p.len() <= 5 && p.bytes().all(|b| b.is_ascii_digit()));
    let label_ok = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    port_ok && host.split('.').all(label_ok)
}

fn is_path_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends_ok = bytes.first().copied().is_some_and(alphanumeric) && bytes.last().copied().is_some_and(alphanumeric);
    ends_ok
        && text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).all(|separator| {
            matches!(separator, "" | "." | "_" | "__")
                || (!separator.is_empty() && separator.bytes().all(|b| b == b'-'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storing_a_short_name_makes_it_local() {
        assert_eq!(ImageName::for_storing("python").unwrap().to_string(), "localhost/python:latest");
        assert_eq!(ImageName::from_registry("python").unwrap().to_string(), "docker.io/library/python:latest");
    }
}
