//! What a name without a registry stands for, as Podman resolves it: by an alias, else in the registries that are searched.

use anyhow::{bail, ensure};
use parallax_names::ImageName;

use super::registries::{Mode, Registries};

/// The names, with registry, that `text` may stand for, most likely first. Podman pulls the first that is there.
///
/// # Errors
/// If the text is no image name, or nothing says what it stands for.
pub fn candidates(text: &str, registries: &Registries) -> anyhow::Result<Vec<String>> {
    ImageName::from_registry(text)?;
    if has_registry(text) {
        return Ok(vec![text.to_owned()]);
    }
    let (repository, suffix) = split(text);
    if let Some(target) = registries.aliases.get(repository) {
        return Ok(vec![format!("{target}{suffix}")]);
    }
    let searched = registries.unqualified_search_registries.as_deref().unwrap_or_default();
    ensure!(
        !searched.is_empty(),
        "the short name \"{text}\" is no alias, and no unqualified-search registries are defined in \
         /etc/containers/registries.conf; write the registry too, as in docker://docker.io/library/{text}"
    );
    let mode = registries.short_name_mode.unwrap_or(Mode::Permissive);
    if mode == Mode::Enforcing && searched.len() > 1 {
        bail!(
            "the short name \"{text}\" may mean {}, and short-name-mode is \"enforcing\"; write which",
            searched.iter().map(|registry| format!("{registry}/{text}")).collect::<Vec<_>>().join(" or ")
        );
    }
    Ok(searched.iter().map(|registry| format!("{registry}/{text}")).collect())
}

/// Whether the name begins with a registry: a host has a dot or a port, or is `localhost`.
fn has_registry(text: &str) -> bool {
    let first = text.split_once('/').map_or("", |(first, _)| first);
    first.contains(['.', ':']) || first == "localhost"
}

/// The name, and `:TAG` or `@DIGEST` with what follows.
fn split(text: &str) -> (&str, &str) {
    let name = text.rfind('/').map_or(0, |slash| slash + 1);
    let end = text[name..].find([':', '@']).map_or(text.len(), |at| name + at);
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registries(searched: &[&str], mode: Option<Mode>) -> Registries {
        Registries {
            unqualified_search_registries: Some(searched.iter().map(|&name| name.to_owned()).collect()),
            short_name_mode: mode,
            aliases: [("debian".to_owned(), "docker.io/library/debian".to_owned())].into(),
        }
    }

    #[test]
    fn aliases_come_before_registries() {
        let two = registries(&["one.org", "two.org:5000"], None);
        assert_eq!(candidates("debian:13", &two).unwrap(), ["docker.io/library/debian:13"]);
        assert_eq!(candidates("a/b", &two).unwrap(), ["one.org/a/b", "two.org:5000/a/b"]);
        assert_eq!(candidates("quay.io/a:1", &two).unwrap(), ["quay.io/a:1"]);
        assert_eq!(candidates("localhost/a", &two).unwrap(), ["localhost/a"]);
        let digest = format!("debian@sha256:{}", "a".repeat(64));
        assert_eq!(candidates(&digest, &two).unwrap(), [format!("docker.io/library/{digest}")]);
    }

    #[test]
    fn podmans_errors_are_errors() {
        let none = candidates("other", &registries(&[], None)).unwrap_err();
        assert!(none.to_string().contains("no unqualified-search registries"), "{none}");
        let many = candidates("other", &registries(&["a.org", "b.org"], Some(Mode::Enforcing))).unwrap_err();
        assert!(many.to_string().contains("a.org/other or b.org/other"), "{many}");
        assert_eq!(candidates("other", &registries(&["a.org"], Some(Mode::Enforcing))).unwrap(), ["a.org/other"]);
        assert_eq!(candidates("other", &registries(&["a", "b"], Some(Mode::Disabled))).unwrap().len(), 2);
        assert!(candidates("Not a name", &registries(&["a.org"], None)).is_err());
    }
}
