//! The search for an image in repositories of unpacked images, to be made with the user's credentials.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parallax_format::{ImageRef, ducc};

/// Returns the directory of the image that a reference means; `None` if no repository has it. Calls `before` with each repository
/// before a look at it.
///
/// # Errors
/// The repository that cannot be searched, and the reason.
pub(super) fn find(
    repositories: &[PathBuf],
    reference: &ImageRef,
    before: impl Fn(&Path),
) -> Result<Option<PathBuf>, (PathBuf, io::Error)> {
    for repository in repositories {
        before(repository);
        let failed = |error| (repository.clone(), error);
        // One that is not mounted here says nothing about its images.
        fs::metadata(repository).map_err(failed)?;
        if let Some(place) = place_in(repository, reference).map_err(failed)? {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

fn place_in(repository: &Path, reference: &ImageRef) -> io::Result<Option<PathBuf>> {
    for place in ducc::places(reference) {
        let path = repository.join(place);
        match fs::metadata(&path) {
            Ok(_) => return Ok(Some(path)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids_are_found_and_a_missing_repository_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_owned();
        let id = "ab".repeat(32);
        let (name, flat) = (root.join("registry.hub.docker.com/library/python:3"), root.join(".flat/ab").join(&id));
        for path in [&name, &flat] {
            fs::create_dir_all(path).unwrap();
        }
        let found = |text: &str| find(std::slice::from_ref(&root), &ImageRef::parse(text).unwrap(), |_| ()).unwrap();
        assert_eq!((found("python:3"), found(&id)), (Some(name), Some(flat)));
        assert_eq!((found("python:4"), found("quay.io/a/b")), (None, None));
        let missing = root.join("missing");
        let (named, _) =
            find(std::slice::from_ref(&missing), &ImageRef::parse("python:3").unwrap(), |_| ()).unwrap_err();
        assert_eq!(named, missing);
    }
}
