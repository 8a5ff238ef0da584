//! The search for an image in repositories of unpacked images, to be made with the user's credentials.

use std::io;
use std::path::{Path, PathBuf};

use parallax_format::ImageRef;
use parallax_trees::Repository;

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
        let found = Repository::new(repository).find(reference).map_err(|error| (repository.clone(), error))?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_repository_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (there, missing) = (directory.path().to_owned(), directory.path().join("missing"));
        let reference = ImageRef::parse("python:3").unwrap();
        assert_eq!(find(std::slice::from_ref(&there), &reference, |_| ()).unwrap(), None);
        let (named, _) = find(&[there, missing.clone()], &reference, |_| ()).unwrap_err();
        assert_eq!(named, missing);
    }
}
