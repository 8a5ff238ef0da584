//! Repositories of unpacked images, and directories as images.

use std::path::{Path, PathBuf};

use parallax_format::ducc;
use parallax_probe::Findings;

use super::check::Check;

/// The topic of these checks.
const TOPIC: &str = "trees";

/// Checks that directories can be images on this machine, if the configuration names repositories, and each repository.
pub(super) fn check(repositories: &[PathBuf], findings: &Findings) -> Vec<Check> {
    if repositories.is_empty() {
        return Vec::new();
    }
    let able = findings.directories().err().map(|obstacle| {
        let finding = format!("directories cannot be images here: {obstacle}");
        Check::problem(TOPIC, finding, "migrate the images into a store")
    });
    repositories.iter().map(|path| one(path)).chain(able).collect()
}

fn one(path: &Path) -> Check {
    let shown = path.display();
    match path.join(ducc::METADATA).metadata() {
        Ok(_) => Check::ok(
            TOPIC,
            format!(
                "{shown} has images; files of accounts that users have no ids of look like nobody's, and cannot be changed"
            ),
        ),
        Err(error) if path.is_dir() => Check::problem(
            TOPIC,
            format!("{shown} is not a repository in DUCC's layout: {}: {error}", ducc::METADATA),
            "correct \"trees.paths\" in the configuration; other directories are run by their paths",
        ),
        Err(error) => Check::problem(
            TOPIC,
            format!("{shown} cannot be read: {error}"),
            "mount its file system here, or correct \"trees.paths\" in the configuration",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::State;
    use super::*;

    #[test]
    fn a_repository_has_metadata() {
        let directory = tempfile::tempdir().unwrap();
        let state = |path: &Path| one(path).state;
        assert_eq!(state(directory.path()), State::Problem);
        assert!(one(&directory.path().join("none")).finding.contains("cannot be read"));
        std::fs::create_dir(directory.path().join(ducc::METADATA)).unwrap();
        assert_eq!(state(directory.path()), State::Ok);
        assert!(check(&[], &Findings::default()).is_empty());
        // Nothing was tried, so nothing is known to work.
        assert_eq!(check(&[directory.path().to_owned()], &Findings::default()).len(), 2);
    }
}
