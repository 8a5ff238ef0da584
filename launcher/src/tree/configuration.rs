//! The settings of an image that is a path, from what DUCC has written beside it or in it, or enroot in it; one of other origin has none.

use std::path::Path;

use parallax_format::digest::ImageId;
use parallax_format::oci::Execution;
use parallax_format::{ducc, enroot};
use parallax_sys::root::Root;
use parallax_trees::Image;

use crate::digest::sha256;

/// The settings of an image that is a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Settings for the execution of programs.
    pub execution: Execution,
    /// The image's id, if it is an image of a repository.
    pub id: Option<ImageId>,
}

/// Maximum size of a file that is read in the image, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// Returns the settings of an image by the path that the user has named.
///
/// # Errors
/// A part of a sentence: a file is there and cannot be used.
pub(super) fn of_image(path: &Path, root: &Root) -> Result<Settings, String> {
    let image = Image::of_path(path).map_err(|error| error.to_string())?;
    let configuration =
        image.as_ref().map_or(Ok(None), |image| image.configuration(sha256)).map_err(|error| error.to_string())?;
    let execution = match (&image, configuration) {
        (Some(image), Some(text)) => Execution::of_configuration(&text)
            .map_err(|error| format!("{} is malformed: {error}", image.configuration_path().display()))?,
        _ => of_files(root)?,
    };
    Ok(Settings { execution, id: image.map(|image| image.id) })
}

/// Reads the settings in files of the image, which other tools have put there.
fn of_files(root: &Root) -> Result<Execution, String> {
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn variables(path: &Path) -> Result<Option<Vec<String>>, String> {
        of_image(path, &Root::open(path).unwrap()).map(|settings| settings.execution.environment)
    }

    #[test]
    fn the_configuration_is_that_of_the_repository_or_of_a_script_in_the_image() {
        let directory = tempfile::tempdir().unwrap();
        let repository = directory.path().canonicalize().unwrap();
        let id: ImageId = "ab".repeat(32).parse().unwrap();
        let flat = repository.join(ducc::flat(&id));
        fs::create_dir_all(flat.join(".singularity.d/env")).unwrap();
        let public = repository.join("registry.example.org/library/python:3");
        fs::create_dir_all(public.parent().unwrap()).unwrap();
        symlink(&flat, &public).unwrap();
        assert_eq!(variables(&public), Ok(None));
        assert_eq!(of_image(&public, &Root::open(&public).unwrap()).unwrap().id, Some(id));
        assert_eq!(of_image(&repository, &Root::open(&repository).unwrap()), Ok(Settings::default()));

        fs::write(flat.join(&ducc::APPTAINER_VARIABLES[1..]), "export A=\"script\"\n").unwrap();
        assert_eq!(variables(&public), Ok(Some(vec!["A=script".to_owned()])));

        // Another file in the place of the configuration counts as none.
        let file = repository.join(ducc::configuration(&id));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        for text in ["<html>", r#"{"config":{"Env":["A=other"]}}"#] {
            fs::write(&file, text).unwrap();
            assert_eq!(variables(&public), Ok(Some(vec!["A=script".to_owned()])));
        }
        let of_image = |text: &str| {
            let id = ImageId::from(sha256(text.as_bytes()));
            let file = repository.join(ducc::configuration(&id));
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
            let directory = repository.join(ducc::flat(&id));
            fs::create_dir_all(&directory).unwrap();
            variables(&directory)
        };
        assert_eq!(of_image(r#"{"config":{"Env":["A=place"]}}"#), Ok(Some(vec!["A=place".to_owned()])));
        assert!(of_image("no configuration").unwrap_err().contains("is malformed"));
    }
}
