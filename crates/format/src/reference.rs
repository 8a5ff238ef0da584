//! References to images in a store, as users write them.

use crate::correct::correction;
use crate::digest::{self, Digest, ImageId};
use crate::name::{DEFAULT_REGISTRY, ImageName, LOCAL_REGISTRY, NameError, Parts, grammar, too_long};

/// A reference to an image in a store, as a user writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageRef {
    /// An image id, with or without `sha256:`.
    Id(ImageId),
    /// A manifest's (or an index's) digest, as in `python@sha256:…`.
    Digest(Digest),
    /// A name; the fully qualified names it may mean, most likely first.
    Name(Vec<ImageName>),
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
    /// [`NameError`] for any other text.
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

/// The start of an image id, as lists show it: from 12 to 63 lower-case hexadecimal digits, with or without `sha256:`.
///
/// Such a text may be a name as well; an image of that name comes first.
#[must_use]
pub fn id_prefix(text: &str) -> Option<&str> {
    digest::start_of_id(text)
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
    fn the_familiar_form_finds_the_image_again() {
        for text in ["localhost/python:3", "docker.io/library/python:3", "docker.io/org/app:1", "quay.io/a/b:c"] {
            let name = ImageName::for_storing(text).unwrap();
            assert!(names(&name.familiar()).contains(&text.to_owned()), "{text} is familiar as {}", name.familiar());
        }
    }
}
