//! The grammar of image names, after the OCI distribution spec's `<name>` and `<tag>` and Podman's short names.
//!
//! No crate serves: `oci-spec`'s references know no short names, and bring regex and derive_builder into the Slurm plugin.

mod parts;

use std::borrow::Cow;
use std::fmt;

use crate::correct::correction;
use crate::digest::{self, Digest, ImageId};

pub use parts::{split_registry, split_suffix, tag_and_digest};

/// The registry host Podman gives to images that were built or named locally.
pub const LOCAL_REGISTRY: &str = "localhost";
/// The registry host a short name means, where no local image has it.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The namespace of `docker.io` names that have none.
const DEFAULT_NAMESPACE: &str = "library";
/// The tag a name without one means.
pub const DEFAULT_TAG: &str = "latest";
/// The distribution spec's limit for a repository name, host included.
const MAX_REPOSITORY: usize = 255;
/// The distribution spec's limit for a tag.
const MAX_TAG: usize = 128;

/// Why a text is not an image name.
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

/// What a user may write to mean an image in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageRef {
    /// An image id, with or without `sha256:`.
    Id(ImageId),
    /// A manifest's (or an index's) digest, as in `python@sha256:…`.
    Digest(Digest),
    /// A name; the fully qualified names it may mean, most likely first.
    Name(Vec<ImageName>),
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
    fn new(domain: &str, path: &str, tag: Option<&str>) -> Option<Self> {
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

impl ImageRef {
    /// Whether one of an image's fully qualified names is among those that this may mean. An id and a digest are no names.
    #[must_use]
    pub fn names_one_of(&self, names: &[String]) -> bool {
        matches!(self, Self::Name(meant) if meant.iter().any(|name| names.contains(&name.to_string())))
    }

    /// Reads what a user wrote: a name, a name with a digest, or an image id.
    ///
    /// # Errors
    /// [`NameError`] if it is none of them.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if let Some(id) = ImageId::parse(digest::bare(text)) {
            return Ok(Self::Id(id));
        }
        // What was probably meant is for people who name an image; the other readers of names are told what is wrong.
        let parts = Parts::parse(text).map_err(|error| correction(text).map_or(error, |what| grammar(text, what)))?;
        if let Some(digest) = parts.digest {
            return Ok(Self::Digest(digest));
        }
        let domains = match parts.domain {
            Some(domain) => vec![domain],
            None => vec![LOCAL_REGISTRY, DEFAULT_REGISTRY],
        };
        let names = domains.into_iter().filter_map(|domain| ImageName::new(domain, parts.path, parts.tag));
        let names: Vec<ImageName> = names.collect();
        if names.is_empty() { Err(too_long(text)) } else { Ok(Self::Name(names)) }
    }
}

/// The parts of a name as it was written.
struct Parts<'a> {
    domain: Option<&'a str>,
    path: &'a str,
    tag: Option<&'a str>,
    digest: Option<Digest>,
}

impl<'a> Parts<'a> {
    fn parse(text: &'a str) -> Result<Self, NameError> {
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

fn grammar(name: &str, what: impl Into<Cow<'static, str>>) -> NameError {
    NameError::Grammar { name: name.escape_debug().to_string(), what: what.into() }
}

/// The start of an image id, as lists show it: from 12 to 63 lower-case hexadecimal digits, with or without `sha256:`.
///
/// Such a text may be a name as well; an image of that name comes first.
#[must_use]
pub fn id_prefix(text: &str) -> Option<&str> {
    digest::start_of_id(text)
}

fn too_long(name: &str) -> NameError {
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

    fn names(text: &str) -> Vec<String> {
        match ImageRef::parse(text).unwrap() {
            ImageRef::Name(names) => names.iter().map(ToString::to_string).collect(),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn short_names_mean_a_local_image_first() {
        assert_eq!(names("python:3.12"), ["localhost/python:3.12", "docker.io/library/python:3.12"]);
        assert_eq!(names("org/app"), ["localhost/org/app:latest", "docker.io/org/app:latest"]);
    }

    #[test]
    fn qualified_names_mean_one_image() {
        assert_eq!(names("quay.io/org/app:v1"), ["quay.io/org/app:v1"]);
        assert_eq!(names("localhost:5000/app"), ["localhost:5000/app:latest"]);
        assert_eq!(names("docker.io/python"), ["docker.io/library/python:latest"]);
    }

    #[test]
    fn ids_and_digests() {
        let hex = "0123456789abcdef".repeat(4);
        let id = ImageRef::Id(hex.parse().unwrap());
        assert_eq!(ImageRef::parse(&hex).unwrap(), id);
        assert_eq!(ImageRef::parse(&format!("sha256:{hex}")).unwrap(), id);
        let digest = Digest::parse(&format!("sha256:{hex}")).unwrap();
        assert_eq!(ImageRef::parse(&format!("python@sha256:{hex}")).unwrap(), ImageRef::Digest(digest));
    }

    #[test]
    fn starts_of_ids() {
        assert_eq!(id_prefix("0909040c2251"), Some("0909040c2251"));
        assert_eq!(id_prefix("sha256:0909040c2251"), Some("0909040c2251"));
        for text in ["0909040c225", "0909040C2251", "python", &"a".repeat(64)] {
            assert_eq!(id_prefix(text), None, "{text}");
        }
        // It is a name too, which comes first.
        assert!(matches!(ImageRef::parse("0909040c2251").unwrap(), ImageRef::Name(_)));
    }

    #[test]
    fn a_name_must_not_become_too_long_by_what_was_left_out() {
        // "localhost/" makes 255 of it; "docker.io/library/" would be too much.
        assert_eq!(names(&"a".repeat(245)).len(), 1);
        let name = "a".repeat(246);
        let error = ImageRef::parse(&name).unwrap_err().to_string();
        assert!(error.contains("255 characters"), "{error}");
        assert!(ImageName::for_storing(&name).is_err() && ImageName::from_registry(&name).is_err());
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long_tag = format!("a:{}", "t".repeat(129));
        let long = "a".repeat(256);
        for text in [
            "",
            " ",
            "a b",
            "Python",
            "../etc",
            "a/../b",
            "/a",
            "a/",
            "a//b",
            "a:",
            ":a",
            "a:b:c",
            "a@sha256:12",
            "-a",
            "a;rm",
            "a\nb",
            "é",
            "a:-t",
            "$(x)",
            "%s",
            "a/.b",
            "host-.io/a",
            "h.io:port/a",
            long_tag.as_str(),
            long.as_str(),
        ] {
            assert!(ImageRef::parse(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn an_error_shows_control_characters_escaped() {
        assert!(ImageRef::parse("a\x1b[31mb").unwrap_err().to_string().contains("a\\u{1b}[31mb"));
    }

    #[test]
    fn storing_a_short_name_makes_it_local() {
        assert_eq!(ImageName::for_storing("python").unwrap().to_string(), "localhost/python:latest");
        assert_eq!(ImageName::from_registry("python").unwrap().to_string(), "docker.io/library/python:latest");
    }

    #[test]
    fn the_familiar_form_finds_the_image_again() {
        for text in ["localhost/python:3", "docker.io/library/python:3", "docker.io/org/app:1", "quay.io/a/b:c"] {
            let name = ImageName::for_storing(text).unwrap();
            assert!(names(&name.familiar()).contains(&text.to_owned()), "{text} is familiar as {}", name.familiar());
        }
    }
}
