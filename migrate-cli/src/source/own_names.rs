//! The names that an archive or layout has for its images: tags in the output of `docker save`, annotations in OCI's index.
//!
//! They are interpreted as by `podman load`: a name without a registry is a local one.

use std::fs::File;
use std::io;
use std::path::Path;

use parallax_format::ImageName;
use parallax_format::oci::{Index, IndexEntry, NAME_ANNOTATION};
use parallax_layers::archive_member;
use serde::Deserialize;

use super::local;
use super::reference::{Reference, Transport};

/// Maximum size in bytes of a list of images.
const MAX_LIST: u64 = 4 << 20;
/// Annotation of BuildKit and containerd with the full name.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// One image of an archive or layout.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    /// Selector of the image in a source, after the path and a colon; none if there is none.
    selector: Option<String>,
    /// Its names, unchanged.
    names: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct DockerItem {
    #[serde(rename = "RepoTags", default)]
    tags: Option<Vec<String>>,
}

/// Returns the names of a source's image; empty if it has none, or the source is of another kind.
///
/// # Errors
/// The list of images cannot be read.
pub fn own_names(reference: &Reference) -> io::Result<Vec<ImageName>> {
    let (path, selector) = path_and_selector(&reference.rest);
    let Some(images) = list(reference.transport, path)? else { return Ok(Vec::new()) };
    let names = match (selector, &images[..]) {
        (None, [one]) => one.names.clone(),
        (None, _) => Vec::new(),
        (Some(selector), _) => selected(&images, selector),
    };
    let mut usable: Vec<ImageName> = Vec::new();
    for name in names {
        match ImageName::for_storing(&name) {
            Ok(name) if !usable.contains(&name) => usable.push(name),
            Ok(_) => {}
            Err(error) => tracing::warn!("{}: ignoring a name of the image: {error}", reference.text),
        }
    }
    Ok(usable)
}

/// Returns one source for each image of an archive of several images, since `podman load` loads all of them; empty
/// if the archive has one image, or one is selected.
///
/// # Errors
/// The list of images cannot be read.
pub fn several(reference: &Reference) -> io::Result<Vec<String>> {
    let (path, selector) = path_and_selector(&reference.rest);
    let prefix = match reference.transport {
        Transport::DockerArchive => "docker-archive",
        Transport::OciArchive => "oci-archive",
        _ => return Ok(Vec::new()),
    };
    let Some(images) = list(reference.transport, path)?.filter(|_| selector.is_none()) else { return Ok(Vec::new()) };
    let selectors: Option<Vec<String>> = images.into_iter().map(|image| image.selector).collect();
    // If not all images have a selector, skopeo reports the images to select from.
    let selectors = selectors.filter(|all| all.len() > 1).unwrap_or_default();
    Ok(selectors.iter().map(|selector| format!("{prefix}:{path}:{selector}")).collect())
}

fn path_and_selector(rest: &str) -> (&str, Option<&str>) {
    rest.split_once(':').map_or((rest, None), |(path, selector)| (path, Some(selector).filter(|text| !text.is_empty())))
}

/// Returns the images of an archive or layout; `None` if the source is of another kind or has no list.
fn list(transport: Transport, path: &str) -> io::Result<Option<Vec<Listed>>> {
    let member = |name| archive_member(File::open(path)?, name, MAX_LIST);
    match transport {
        Transport::DockerArchive => member("manifest.json")?.map(|bytes| docker(&bytes)).transpose(),
        Transport::OciArchive => member("index.json")?.map(|bytes| oci(&bytes)).transpose(),
        Transport::Oci => local::small(&Path::new(path).join("index.json")).map(|bytes| oci(&bytes)).transpose(),
        _ => Ok(None),
    }
}

fn docker(bytes: &[u8]) -> io::Result<Vec<Listed>> {
    let items: Vec<DockerItem> = serde_json::from_slice(bytes)?;
    let listed = |(number, item): (usize, DockerItem)| Listed {
        selector: Some(format!("@{number}")),
        names: item.tags.unwrap_or_default(),
    };
    Ok(items.into_iter().enumerate().map(listed).collect())
}

fn oci(bytes: &[u8]) -> io::Result<Vec<Listed>> {
    let index: Index = serde_json::from_slice(bytes)?;
    let listed = |entry: &IndexEntry| {
        let text = |key| entry.annotation(key).filter(|text| !text.is_empty()).map(ToOwned::to_owned);
        let is_whole = |name: &String| name.contains(['/', ':']);
        // Podman and skopeo write tags and full names there.
        let name = text(CONTAINERD_NAME).or_else(|| text(NAME_ANNOTATION).filter(is_whole));
        Listed { selector: text(NAME_ANNOTATION), names: name.into_iter().collect() }
    };
    Ok(index.manifests.iter().map(listed).collect())
}

/// Returns the names for a selector: for a number all names of the image, for a name that name.
fn selected(images: &[Listed], selector: &str) -> Vec<String> {
    if let Some(image) = images.iter().find(|image| image.selector.as_deref() == Some(selector)) {
        return image.names.clone();
    }
    let Ok(wanted) = ImageName::from_registry(selector) else { return Vec::new() };
    let means_it = |name: &&String| ImageName::from_registry(name).is_ok_and(|name| name == wanted);
    images.iter().flat_map(|image| &image.names).find(means_it).cloned().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(images: &[Listed], selector: &str) -> Vec<String> {
        selected(images, selector)
    }

    #[test]
    fn tags_of_what_docker_saves() {
        let images =
            docker(br#"[{"RepoTags":["app:1","quay.io/a/app:1"],"Config":"x"},{"RepoTags":null},{"Layers":[]}]"#)
                .unwrap();
        assert_eq!(names(&images, "@0"), ["app:1", "quay.io/a/app:1"]);
        assert_eq!(names(&images, "@1"), [""; 0]);
        assert_eq!(names(&images, "docker.io/library/app:1"), ["app:1"]);
        assert_eq!(names(&images, "quay.io/a/app:1"), ["quay.io/a/app:1"]);
        assert_eq!(names(&images, "other"), [""; 0]);
        assert!(docker(b"{}").is_err());
    }

    #[test]
    fn annotations_of_an_index() {
        let entry = |annotations: &str| format!(r#"{{"digest":"sha256:a","annotations":{{{annotations}}}}}"#);
        let entries = [
            entry(&format!(r#""{NAME_ANNOTATION}":"1","{CONTAINERD_NAME}":"docker.io/library/a:1""#)),
            entry(&format!(r#""{NAME_ANNOTATION}":"docker.io/library/b:2""#)),
            entry(&format!(r#""{NAME_ANNOTATION}":"3""#)),
            r#"{"digest":"sha256:b"}"#.to_owned(),
        ];
        let index = format!(r#"{{"manifests":[{}]}}"#, entries.join(","));
        let images = oci(index.as_bytes()).unwrap();
        assert_eq!(names(&images, "1"), ["docker.io/library/a:1"]);
        assert_eq!(names(&images, "docker.io/library/b:2"), ["docker.io/library/b:2"]);
        // A tag alone is no name: the path has the rest.
        assert_eq!(names(&images, "3"), [""; 0]);
        assert_eq!(images[3], Listed { selector: None, names: Vec::new() });
    }

    #[test]
    fn sources_of_other_kinds_have_no_names_of_their_own() {
        for text in ["docker://a", "dir:/nonexistent", "oci:/nonexistent"] {
            let reference = Reference::parse(text).unwrap().unwrap();
            assert_eq!(own_names(&reference).unwrap(), [], "{text}");
            assert_eq!(several(&reference).unwrap(), [""; 0], "{text}");
        }
        assert!(own_names(&Reference::parse("docker-archive:/nonexistent").unwrap().unwrap()).is_err());
    }
}
