//! The settings of an image that is a path, from what DUCC has written beside it or in it, or enroot in it; one of other origin has none.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use parallax_format::digest::{Digest, ImageId};
use parallax_format::oci::{Execution, Manifest};
use parallax_format::{ducc, enroot};
use parallax_sys::root::Root;

/// Maximum size of a manifest or a configuration in bytes, as registries limit them.
const MAX_FILE: u64 = 4 << 20;

/// Returns the settings of an image by the path that the user has named.
///
/// # Errors
/// A part of a sentence: a file is there and cannot be used.
pub(super) fn of_image(path: &Path, root: &Root) -> Result<Execution, String> {
    if let Some((repository, id)) = by_manifest(path)?.or_else(|| by_path(path)) {
        let file = repository.join(ducc::configuration(&id));
        if let Some(text) = read(&file)? {
            return Execution::of_configuration(&text).map_err(|error| malformed(&file, &error));
        }
    }
    if let Some(script) = text_in(root, ducc::APPTAINER_VARIABLES)? {
        let environment = Some(ducc::apptainer_variables(&script));
        return Ok(Execution { environment, ..Execution::default() });
    }
    let Some(script) = text_in(root, enroot::START_SCRIPT)? else { return Ok(Execution::default()) };
    let variables = text_in(root, enroot::VARIABLES)?.unwrap_or_default();
    Ok(enroot::execution(&script, &variables).unwrap_or_default())
}

/// Reads a file of the image, if it is there.
fn text_in(root: &Root, path: &str) -> Result<Option<String>, String> {
    let bytes = root.read(Path::new(path), MAX_FILE).map_err(|error| format!("cannot read {path} in it: {error}"))?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// Looks for a manifest of this name in the repositories that the path may lie in.
fn by_manifest(path: &Path) -> Result<Option<(PathBuf, ImageId)>, String> {
    for repository in path.ancestors().skip(1) {
        let Ok(name) = path.strip_prefix(repository) else { continue };
        let file = repository.join(ducc::manifest(name));
        if let Some(text) = read(&file)? {
            let manifest: Manifest = serde_json::from_str(&text).map_err(|error| malformed(&file, &error))?;
            let digest = Digest::parse(&manifest.config.digest)
                .ok_or_else(|| malformed(&file, &"the digest of its configuration is invalid"))?;
            return Ok(Some((repository.to_owned(), ImageId::from(*digest.sha256()))));
        }
    }
    Ok(None)
}

/// Reads the image's id in its place in the repository.
fn by_path(path: &Path) -> Option<(PathBuf, ImageId)> {
    let place = path.canonicalize().ok()?;
    ducc::flat_image(&place).map(|(repository, id)| (repository.to_owned(), id))
}

/// Reads a file, if it is there.
fn read(path: &Path) -> Result<Option<String>, String> {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
        Ok(text)
    };
    match read() {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

fn malformed(file: &Path, reason: &dyn std::fmt::Display) -> String {
    format!("{} is malformed: {reason}", file.display())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn variables(path: &Path) -> Result<Option<Vec<String>>, String> {
        of_image(path, &Root::open(path).unwrap()).map(|execution| execution.environment)
    }

    #[test]
    fn the_configuration_is_found_by_the_manifest_and_by_the_place() {
        let directory = tempfile::tempdir().unwrap();
        let repository = directory.path().canonicalize().unwrap();
        let id: ImageId = "ab".repeat(32).parse().unwrap();
        let flat = repository.join(".flat/ab").join(id.as_str());
        fs::create_dir_all(flat.join(".singularity.d/env")).unwrap();
        let public = repository.join("registry.example.org/library/python:3");
        fs::create_dir_all(public.parent().unwrap()).unwrap();
        symlink(&flat, &public).unwrap();
        assert_eq!(variables(&public), Ok(None));

        fs::write(flat.join(&ducc::APPTAINER_VARIABLES[1..]), "export A=\"script\"\n").unwrap();
        assert_eq!(variables(&public), Ok(Some(vec!["A=script".to_owned()])));

        let file = repository.join(ducc::configuration(&id));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, r#"{"config":{"Env":["A=place"]}}"#).unwrap();
        assert_eq!(variables(&public), Ok(Some(vec!["A=place".to_owned()])));

        // A manifest of this name may mean another configuration.
        let other: ImageId = "cd".repeat(32).parse().unwrap();
        let file = repository.join(ducc::configuration(&other));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, r#"{"config":{"Env":["A=manifest"]}}"#).unwrap();
        let manifest = repository.join(ducc::manifest(Path::new("registry.example.org/library/python:3")));
        fs::create_dir_all(manifest.parent().unwrap()).unwrap();
        fs::write(&manifest, format!(r#"{{"config":{{"digest":"sha256:{other}","size":1}},"layers":[]}}"#)).unwrap();
        assert_eq!(variables(&public), Ok(Some(vec!["A=manifest".to_owned()])));
        fs::write(&manifest, "{}").unwrap();
        assert!(variables(&public).unwrap_err().contains("manifest.json is malformed"));
    }
}
