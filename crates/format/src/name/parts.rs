//! Splits names into registry, repository, tag and digest.
//!
//! Nothing is checked here: these are for names that are listed somewhere, and for the one reader that checks all parts.

/// The registry host Podman gives to images that were built or named locally.
pub const LOCAL_REGISTRY: &str = "localhost";

/// The registry that a name begins with, if it does, and the rest.
///
/// The rule is that of the distribution project's references, which Docker, skopeo and Podman use: before the first slash
/// there is a dot, a port or an upper-case letter, or the host is `localhost`. Without a slash there is no registry.
#[must_use]
pub fn split_registry(name: &str) -> (Option<&str>, &str) {
    let is_registry = |first: &str| {
        first == LOCAL_REGISTRY || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase())
    };
    match name.split_once('/') {
        Some((first, path)) if is_registry(first) => (Some(first), path),
        _ => (None, name),
    }
}

/// The repository of a name, its registry included, and what comes after it: `:TAG`, `@DIGEST`, both or nothing.
///
/// A colon after the last slash starts the tag; one before it belongs to a port.
#[must_use]
pub fn split_suffix(name: &str) -> (&str, &str) {
    let tagged = name.split_once('@').map_or(name, |(tagged, _)| tagged);
    let repository = match tagged.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => tagged,
    };
    name.split_at(repository.len())
}

/// The tag and the digest in what [`split_suffix`] gives as a name's end.
#[must_use]
pub fn tag_and_digest(suffix: &str) -> (Option<&str>, Option<&str>) {
    let (tag, digest) = suffix.split_once('@').map_or((suffix, None), |(tag, digest)| (tag, Some(digest)));
    (tag.strip_prefix(':'), digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageRef;

    #[test]
    fn the_first_part_is_a_registry_by_one_rule() {
        for (text, registry) in [
            ("HOST/app", Some("HOST")),
            ("Host/org/app:1", Some("Host")),
            ("localhost/app", Some("localhost")),
            ("localhost:5000/app", Some("localhost:5000")),
            ("host:5000/app:1", Some("host:5000")),
            ("quay.io/app", Some("quay.io")),
            ("host/app", None),
            ("org/app:1", None),
            ("localhost", None),
            ("localhost:5000", None),
            ("quay.io", None),
            ("HOST", None),
            ("app", None),
        ] {
            assert_eq!(split_registry(text).0, registry, "{text}");
            // What is typed for a job means the same: with a registry it means one image.
            if let Ok(ImageRef::Name(names)) = ImageRef::parse(text) {
                assert_eq!(names.len() == 1, registry.is_some(), "{text}");
            }
        }
    }

    #[test]
    fn a_tag_begins_after_the_last_slash() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (repository, tag, digest) in [
            ("app", None, None),
            ("app", Some("1"), None),
            ("localhost:5000/app", None, None),
            ("localhost:5000/app", Some("1"), Some(&*digest)),
            ("a.b/c", None, Some(&*digest)),
        ] {
            let suffix = tag.map(|tag| format!(":{tag}")).unwrap_or_default()
                + &digest.map(|digest| format!("@{digest}")).unwrap_or_default();
            assert_eq!(split_suffix(&format!("{repository}{suffix}")), (repository, &*suffix));
            assert_eq!(tag_and_digest(&suffix), (tag, digest));
        }
        assert_eq!(split_suffix("localhost:5000"), ("localhost", ":5000"));
    }
}
