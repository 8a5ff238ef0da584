//! Look-up of images in a Podman storage by Podman's rules (libimage's `LookupImage`).
//!
//! In this order: the fully qualified names that the text may stand for (alias, `localhost/`, the unqualified-search
//! registries, `docker.io`); an image listed under the text itself, or an id that begins with it; finally, for a short name, any
//! image whose repository ends in the name and that has the tag.

use anyhow::ensure;
use parallax_format::digest::Digest;
use parallax_format::name::{
    DEFAULT_REGISTRY, DEFAULT_TAG, LOCAL_REGISTRY, split_registry, split_suffix, tag_and_digest,
};
use parallax_format::podman::ListedImage;
use parallax_format::{ImageName, ImageRef};

use super::registries::Registries;

/// Minimum number of digits of an abbreviated id.
const MIN_ID_DIGITS: usize = 3;

/// An image that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalImage {
    /// The image as skopeo finds it in the storage: a listed name if that is fully qualified, else `@ID`.
    pub source: String,
    /// The matching name, or all listed names if the image was found by its id.
    pub names: Vec<ImageName>,
}

/// Part of a name after the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Suffix<'a> {
    Tag(&'a str),
    /// `None` for one that no image has.
    Digest(Option<Digest>),
}

/// Finds the image that `text` means; `None` if not found.
///
/// # Errors
/// `text` is an invalid name or id, or an ambiguous start of an id.
pub(super) fn find(text: &str, images: &[ListedImage], registries: &Registries) -> anyhow::Result<Option<LocalImage>> {
    if let Some(id) = text.strip_prefix('@') {
        return Ok(by_id(id, images)?.map(of_id));
    }
    if let ImageRef::Id(id) = ImageRef::parse(text)? {
        return Ok(images.iter().find(|image| image.id == id.as_str()).map(of_id));
    }
    let (repository, suffix) = parts(text);
    for candidate in repositories(repository, registries) {
        let found = images.iter().find_map(|image| Some((image, listed_as(image, &candidate, &suffix)?)));
        if let Some((image, name)) = found {
            return Ok(Some(named(image, name)));
        }
    }
    if let Some(image) = images.iter().find(|image| image.names_as_listed().iter().any(|name| name == text)) {
        return Ok(Some(named(image, text)));
    }
    if let Some(image) = by_id(text, images)? {
        return Ok(Some(of_id(image)));
    }
    if split_registry(text).0.is_some() {
        return Ok(None);
    }
    let ends_in_it = images.iter().find_map(|image| Some((image, listed_below(image, repository, &suffix)?)));
    Ok(ends_in_it.map(|(image, name)| named(image, name)))
}

/// Returns the fully qualified names, with tag, that `text` may be listed under, most likely first; none for an id or digest.
///
/// # Errors
/// `text` is an invalid image name.
pub fn qualified(text: &str, registries: &Registries) -> anyhow::Result<Vec<String>> {
    let (repository, suffix) = parts(text);
    match (ImageRef::parse(text)?, suffix) {
        (ImageRef::Name(_), Suffix::Tag(tag)) => {
            Ok(repositories(repository, registries).iter().map(|repository| format!("{repository}:{tag}")).collect())
        }
        _ => Ok(Vec::new()),
    }
}

/// Returns the repository, and the tag or digest; a digest has precedence.
fn parts(text: &str) -> (&str, Suffix<'_>) {
    let (repository, suffix) = split_suffix(text);
    let suffix = match tag_and_digest(suffix) {
        (_, Some(digest)) => Suffix::Digest(Digest::parse(digest)),
        (tag, None) => Suffix::Tag(tag.unwrap_or(DEFAULT_TAG)),
    };
    (repository, suffix)
}

/// Returns the fully qualified repositories that a repository may stand for.
fn repositories(repository: &str, registries: &Registries) -> Vec<String> {
    let searched = registries.unqualified_search_registries.iter().flatten();
    let all: Vec<String> = if split_registry(repository).0.is_some() {
        vec![repository.to_owned()]
    } else {
        let searched = searched.map(String::as_str);
        let hosts = [LOCAL_REGISTRY].into_iter().chain(searched).chain([DEFAULT_REGISTRY]);
        registries
            .aliases
            .get(repository)
            .cloned()
            .into_iter()
            .chain(hosts.map(|host| format!("{host}/{repository}")))
            .collect()
    };
    let normalized = all.iter().filter_map(|repository| ImageName::from_registry(repository).ok());
    normalized.map(|name| name.to_string().trim_end_matches(":latest").to_owned()).collect()
}

/// The listed name by which an image is the one of this repository with this tag or digest.
fn listed_as<'a>(image: &'a ListedImage, repository: &str, suffix: &Suffix<'_>) -> Option<&'a str> {
    matching(image, suffix, |listed| listed == repository)
}

/// The same, if the image's repository only ends in this one.
fn listed_below<'a>(image: &'a ListedImage, repository: &str, suffix: &Suffix<'_>) -> Option<&'a str> {
    let fits =
        |listed: &str| listed.strip_suffix(repository).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'));
    matching(image, suffix, fits)
}

fn matching<'a>(image: &'a ListedImage, suffix: &Suffix<'_>, fits: impl Fn(&str) -> bool) -> Option<&'a str> {
    let has_digest = match suffix {
        Suffix::Tag(_) => true,
        Suffix::Digest(digest) => digest.is_some_and(|digest| image.has_digest(&digest)),
    };
    let is_it = |listed: &&String| {
        let (repository, rest) = split_suffix(listed);
        let tag_fits = match suffix {
            Suffix::Tag(tag) => {
                let (listed, digest) = tag_and_digest(rest);
                listed.unwrap_or(DEFAULT_TAG) == *tag && digest.is_none()
            }
            Suffix::Digest(_) => has_digest,
        };
        tag_fits && fits(repository)
    };
    image.names_as_listed().iter().find(is_it).map(String::as_str)
}

/// Returns the image whose id begins with `text`.
fn by_id<'a>(text: &str, images: &'a [ListedImage]) -> anyhow::Result<Option<&'a ListedImage>> {
    let is_start = text.len() >= MIN_ID_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let fitting: Vec<&ListedImage> = images.iter().filter(|image| is_start && image.id.starts_with(text)).collect();
    ensure!(fitting.len() < 2, "{text} is the start of {} image ids; give more digits", fitting.len());
    Ok(fitting.first().copied())
}

fn named(image: &ListedImage, listed: &str) -> LocalImage {
    let is_whole = ImageName::for_storing(listed).is_ok_and(|name| name.to_string() == listed);
    let source = if is_whole { listed.to_owned() } else { format!("@{}", image.id) };
    let by_name = ImageName::for_storing(listed).ok().into_iter().collect::<Vec<_>>();
    // A name with a digest cannot be stored; those beside it can.
    let names = if by_name.is_empty() { image.names() } else { by_name };
    LocalImage { source, names }
}

fn of_id(image: &ListedImage) -> LocalImage {
    LocalImage { source: format!("@{}", image.id), names: image.names() }
}

#[cfg(test)]
mod tests {
    use parallax_store::read::listed_images;
    use serde_json::json;

    use super::*;

    fn images(list: &[(&str, &[&str])]) -> Vec<ListedImage> {
        let entry = |(id, names): &(&str, &[&str])| {
            let hex = id.repeat(64);
            json!({"id": hex, "names": names, "digest": format!("sha256:{hex}")})
        };
        let list: Vec<_> = list.iter().map(entry).collect();
        listed_images(json!(list).to_string().as_bytes()).unwrap()
    }

    fn registries(searched: &[&str]) -> Registries {
        Registries {
            unqualified_search_registries: Some(searched.iter().map(|&name| name.to_owned()).collect()),
            short_name_mode: None,
            aliases: [("nick".to_owned(), "quay.io/some/thing".to_owned())].into(),
        }
    }

    /// Returns the found image as the name for skopeo.
    fn found(text: &str, images: &[ListedImage], searched: &[&str]) -> Option<String> {
        find(text, images, &registries(searched)).unwrap().map(|found| found.source)
    }

    #[test]
    fn a_host_in_upper_case_is_a_registry() {
        let images = images(&[("a", &["HOST/app:latest"]), ("b", &["docker.io/library/localhost:latest"])]);
        assert_eq!(found("HOST/app", &images, &["quay.io"]), Some("HOST/app:latest".to_owned()));
        assert_eq!(found("localhost", &images, &[]), Some("docker.io/library/localhost:latest".to_owned()));
        assert_eq!(found("OTHER/app", &images, &[]), None);
        let qualified = qualified("HOST/app:1", &registries(&["quay.io"])).unwrap();
        assert_eq!(qualified, ["HOST/app:1"]);
    }

    #[test]
    fn an_image_of_docker_hub_has_all_the_forms_that_podman_takes() {
        let images = images(&[("a", &["docker.io/library/alpine:3.22.1", "docker.io/library/alpine:latest"])]);
        for searched in [&[][..], &["docker.io"], &["quay.io", "registry.example.org"]] {
            for (text, name) in [
                ("alpine", "latest"),
                ("alpine:latest", "latest"),
                ("alpine:3.22.1", "3.22.1"),
                ("library/alpine:3.22.1", "3.22.1"),
                ("docker.io/alpine", "latest"),
                ("docker.io/alpine:3.22.1", "3.22.1"),
                ("docker.io/library/alpine:3.22.1", "3.22.1"),
            ] {
                let name = format!("docker.io/library/alpine:{name}");
                assert_eq!(found(text, &images, searched), Some(name), "{text} {searched:?}");
            }
            for text in ["alpine:3", "quay.io/alpine", "pine", "docker.io/other/alpine", "lpine:latest"] {
                assert_eq!(found(text, &images, searched), None, "{text}");
            }
        }
    }

    #[test]
    fn aliases_and_local_images_come_first() {
        let all = images(&[
            ("a", &["docker.io/library/nick:latest"]),
            ("b", &["registry.org/nick:latest"]),
            ("c", &["localhost/nick:latest"]),
            ("d", &["quay.io/some/thing:latest"]),
        ]);
        let expected = ["quay.io/some/thing", "localhost/nick", "registry.org/nick", "docker.io/library/nick"]
            .map(|n| format!("{n}:latest"));
        for (gone, name) in expected.iter().enumerate() {
            assert_eq!(found("nick", &all[..4 - gone], &["registry.org"]).as_ref(), Some(name));
        }
        assert_eq!(qualified("nick", &registries(&["registry.org"])).unwrap(), expected);
        assert_eq!(qualified("docker.io/a:1", &registries(&[])).unwrap(), ["docker.io/library/a:1"]);
    }

    #[test]
    fn a_short_name_may_be_the_end_of_a_longer_one() {
        let images = images(&[("a", &["registry.org/group/tool:1"]), ("b", &["registry.org/other/retool:1"])]);
        assert_eq!(found("tool:1", &images, &[]).unwrap(), "registry.org/group/tool:1");
        assert_eq!(found("group/tool:1", &images, &[]).unwrap(), "registry.org/group/tool:1");
        assert_eq!(found("tool", &images, &[]), None);
        assert_eq!(found("registry.org/tool:1", &images, &[]), None);
    }

    #[test]
    fn ids_digests_and_names_without_a_registry() {
        let images = images(&[
            ("a", &["new-alpine", "docker.io/library/new-alpine:latest"]),
            ("b", &[]),
            ("c", &["quay.io/a/b@sha256:1", "quay.io/a/b:1"]),
        ]);
        let (a, b, c) = ("a".repeat(64), "b".repeat(64), "c".repeat(64));
        assert_eq!(found(&b, &images, &[]), Some(format!("@{b}")));
        assert_eq!(found(&format!("sha256:{b}"), &images, &[]), Some(format!("@{b}")));
        assert_eq!(found("bbbb", &images, &[]), Some(format!("@{b}")));
        assert_eq!(found("@bbbb", &images, &[]), Some(format!("@{b}")));
        assert_eq!(found("bb", &images, &[]), None);
        assert_eq!(found(&format!("quay.io/a/b@sha256:{c}"), &images, &[]), Some(format!("@{c}")));
        assert_eq!(found(&format!("quay.io/a/b:9@sha256:{c}"), &images, &[]), Some(format!("@{c}")));
        assert_eq!(found(&format!("b@sha256:{c}"), &images, &[]), Some(format!("@{c}")));
        assert_eq!(found(&format!("quay.io/other@sha256:{c}"), &images, &[]), None);
        assert_eq!(found("new-alpine", &images[..1], &[]).unwrap(), "docker.io/library/new-alpine:latest");
        let names = find(&a, &images, &registries(&[])).unwrap().unwrap().names;
        assert_eq!(names.len(), 2);
        assert!(find("Not A Name", &images, &registries(&[])).is_err());
    }

    #[test]
    fn the_start_of_several_ids_is_none() {
        let list = json!([{"id": format!("{}a", "1".repeat(63))}, {"id": format!("{}b", "1".repeat(63))}]).to_string();
        let images = listed_images(list.as_bytes()).unwrap();
        assert!(find("1111", &images, &registries(&[])).unwrap_err().to_string().contains("2 image ids"));
    }
}
