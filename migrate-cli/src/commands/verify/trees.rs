//! `parallax verify --trees`: what repositories of unpacked images lack.
//!
//! DUCC publishes the parts of an image in transactions of their own, and removes them one by one, so each may be missing. Parallax
//! runs the directory below `.flat` and reads the configuration of the store for Podman, and nothing else of that store.

mod podman_store;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use parallax_config::Config;
use parallax_format::digest::{Digest, ImageId};
use parallax_format::oci::{Execution, Manifest};
use parallax_format::{ImageRef, ducc, unknown_image};
use parallax_store::Problem;
use parallax_store::hash::sha256;
use parallax_trees::{Image, Repository};

use crate::global::Global;

/// Remedy for a part of an image that is not as it must be.
const PUBLISH: &str = "have DUCC publish the image again, or put it into a store with parallax migrate";

/// Checks the images of these names in all repositories of the configuration; all images and the store for Podman if none is named.
/// Returns the number of images and the problems.
///
/// # Errors
/// The configuration is invalid, a repository cannot be read, or no repository has an image of this name.
pub(super) fn check(global: &Global, images: &[String], deep: bool) -> anyhow::Result<(usize, Vec<Problem>)> {
    let roots = Config::load(&global.config)?.trees.paths;
    let (mut count, mut problems) = (0, Vec::new());
    for image in images {
        let reference = ImageRef::parse(image)?;
        let found = roots.iter().find_map(|root| Repository::new(root).image(&reference).transpose()).transpose()?;
        let shown = || roots.iter().map(|root| root.display().to_string()).collect::<Vec<_>>();
        count += 1;
        of_image(&found.with_context(|| unknown_image(image, &shown(), &[]))?, deep, &mut problems);
    }
    for root in roots.iter().filter(|_| images.is_empty()) {
        let repository = Repository::new(root);
        for name in repository.names()? {
            count += 1;
            match repository.image_at(&name) {
                Ok(found) => found.iter().for_each(|image| of_image(image, deep, &mut problems)),
                Err(error) => {
                    problems.push(problem(None, root.join(name), format!("cannot be used: {error}"), PUBLISH));
                }
            }
        }
        podman_store::check(root, &mut problems);
    }
    Ok((count, problems))
}

/// Returns what the repository lacks of an image, one sentence each.
pub(in crate::commands) fn problems_of(image: &Image) -> Vec<String> {
    let mut problems = Vec::new();
    of_image(image, false, &mut problems);
    problems.into_iter().map(|Problem { path, what, remedy, .. }| format!("{path} {what}; {remedy}")).collect()
}

fn problem(image: Option<ImageId>, path: impl AsRef<Path>, what: impl Into<String>, remedy: &'static str) -> Problem {
    Problem { image, path: path.as_ref().display().to_string(), what: what.into(), remedy }
}

/// Checks one image.
fn of_image(image: &Image, deep: bool, problems: &mut Vec<Problem>) {
    let mut found = |path: PathBuf, what: String, remedy| problems.push(problem(Some(image.id), path, what, remedy));
    let directory = image.directory();
    match image.files(sha256) {
        Err(error) => found(directory.clone(), format!("cannot be used: {error}"), PUBLISH),
        Ok(None) => {
            let what = "is not there or has no files, so the image cannot be run: it was not unpacked, or a garbage collection took it";
            found(directory.clone(), what.to_owned(), PUBLISH);
        }
        Ok(Some(_)) if !directory.is_dir() => {
            let what = "is not there, but the image's layers are: it can be run from a store";
            found(directory.clone(), what.to_owned(), "add it to a store with parallax import --unpacked");
        }
        Ok(Some(_)) if !directory.join(ducc::APPTAINER).is_dir() => {
            let what = format!("has lost the dot files that DUCC adds ({}), which Apptainer needs", ducc::APPTAINER);
            found(directory.clone(), what, PUBLISH);
        }
        Ok(Some(_)) => {}
    }
    configuration(image, &directory, &mut found);
    match image.manifest() {
        Ok(manifest) => manifest.iter().for_each(|manifest| of_manifest(image, manifest, deep, &mut found)),
        Err(error) => found(image.repository.clone(), format!("cannot be used: {error}"), PUBLISH),
    }
}

/// Checks where the settings of an image come from.
fn configuration(image: &Image, directory: &Path, found: &mut impl FnMut(PathBuf, String, &'static str)) {
    let path = image.configuration_path();
    match image.configuration_file() {
        Ok(Some(text)) if image.id != ImageId::from(sha256(text.as_bytes())) => {
            let kind = if Execution::of_configuration(&text).is_ok() { "another file" } else { "no configuration" };
            found(
                path,
                format!("is not the image's configuration but {kind}, perhaps the error of a registry"),
                PUBLISH,
            );
        }
        Ok(Some(_)) => {}
        Ok(None) if directory.join(ducc::APPTAINER_VARIABLES.trim_start_matches('/')).is_file() => {}
        Ok(None) => {
            let what = "is not there: the image's variables, entry point and working directory are unknown";
            found(path, what.to_owned(), "have DUCC make its store for Podman, too (output_format podman)");
        }
        Err(error) => found(path, format!("cannot be used: {error}"), PUBLISH),
    }
}

/// Checks the parts of an image that its manifest names.
fn of_manifest(image: &Image, manifest: &Manifest, deep: bool, found: &mut impl FnMut(PathBuf, String, &'static str)) {
    let path = image.repository.join(ducc::manifest(Path::new(image.name.as_deref().unwrap_or_default())));
    let id = Digest::parse(&manifest.config.digest).map(|digest| ImageId::from(*digest.sha256()));
    if let Some(other) = id.filter(|id| *id != image.id) {
        let what = format!("is that of the image {}, and the name leads to {}", other.short(), image.id.short());
        found(path.clone(), what, "have DUCC publish the name again; Parallax runs what the name leads to");
    }
    let layers: Vec<Digest> = manifest.layers.iter().filter_map(|blob| Digest::parse(&blob.digest)).collect();
    let place = |digest: &Digest| image.layer(digest).unwrap_or_else(|| ducc::layer(digest));
    let directory = |digest: &Digest| image.repository.join(place(digest));
    let (there, missing): (Vec<_>, Vec<_>) = layers.iter().partition(|digest| directory(digest).is_dir());
    // Of an image that was unpacked for Apptainer alone there is no layer.
    for digest in missing.into_iter().filter(|_| !there.is_empty()) {
        found(
            directory(digest),
            "is not there, and the image is listed: a garbage collection took it".to_owned(),
            PUBLISH,
        );
    }
    for digest in there.into_iter().filter(|_| deep) {
        let directory = directory(digest);
        if let Some(whiteout) = whiteout(&directory) {
            let what = "stands for a deleted file: an overlay of the layers shows both";
            found(whiteout, what.to_owned(), "run the image by its name or its directory, and not by its layers");
        }
    }
}

/// Returns the first file of an unpacked layer that stands for a deleted one.
fn whiteout(directory: &Path) -> Option<PathBuf> {
    let mut below = Vec::new();
    for entry in std::fs::read_dir(directory).ok()?.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(ducc::WHITEOUT.as_bytes()) {
            return Some(entry.path());
        }
        below.extend(entry.file_type().is_ok_and(|kind| kind.is_dir()).then(|| entry.path()));
    }
    below.iter().find_map(|directory| whiteout(directory))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const NAME: &str = "quay.io/a/b:1";

    /// A repository with one image that has no defect.
    struct Sound {
        directory: tempfile::TempDir,
        id: ImageId,
        layers: [Digest; 2],
    }

    fn sound() -> Sound {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let configuration = r#"{"config":{"Env":["A=b"]}}"#;
        let id = ImageId::from(sha256(configuration.as_bytes()));
        let layers = ["cd", "ef"].map(|part| Digest::parse(&format!("sha256:{}", part.repeat(32))).unwrap());
        let flat = root.join(ducc::flat(&id));
        let directories = [flat.join(ducc::APPTAINER), flat.join("usr"), root.join("quay.io/a")];
        for path in directories.into_iter().chain(layers.iter().map(|digest| root.join(ducc::layer(digest)))) {
            fs::create_dir_all(path).unwrap();
        }
        symlink(Path::new("../..").join(ducc::flat(&id)), root.join(NAME)).unwrap();
        let blobs = layers.map(|digest| format!(r#"{{"digest":"{digest}","size":1}}"#)).join(",");
        let manifest = format!(r#"{{"config":{{"digest":"sha256:{id}","size":1}},"layers":[{blobs}]}}"#);
        let files = [(ducc::manifest(Path::new(NAME)), manifest), (ducc::configuration(&id), configuration.to_owned())];
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Sound { directory, id, layers }
    }

    /// The problems of the image, one after the other.
    fn problems(sound: &Sound) -> String {
        let mut found = Vec::new();
        let image = Repository::new(sound.directory.path()).image_at(NAME).unwrap().unwrap();
        of_image(&image, true, &mut found);
        found.iter().map(|problem| format!("{} {}\n", problem.path, problem.what)).collect()
    }

    #[test]
    fn a_sound_image_has_no_problem() {
        assert_eq!(problems(&sound()), "");
    }

    #[test]
    fn a_directory_or_a_layer_that_was_collected_is_named() {
        let sound = sound();
        let root = sound.directory.path();
        fs::remove_dir_all(root.join(ducc::layer(&sound.layers[1]))).unwrap();
        let found = problems(&sound);
        assert!(found.contains(sound.layers[1].sha256().as_str()) && found.contains("garbage collection"), "{found}");
        fs::remove_dir_all(root.join(ducc::flat(&sound.id))).unwrap();
        assert!(problems(&sound).contains("cannot be run"));
        // An image that was unpacked for Apptainer alone has no layers.
        let sound = self::sound();
        fs::remove_dir_all(sound.directory.path().join(".layers")).unwrap();
        assert_eq!(problems(&sound), "");
    }

    #[test]
    fn lost_dot_files_and_a_missing_or_wrong_configuration_are_named() {
        let sound = sound();
        let root = sound.directory.path();
        fs::remove_dir(root.join(ducc::flat(&sound.id)).join(ducc::APPTAINER)).unwrap();
        assert!(problems(&sound).contains("has lost the dot files"));
        let configuration = root.join(ducc::configuration(&sound.id));
        fs::write(&configuration, r#"{"errors":[{"code":"DENIED"}]}"#).unwrap();
        assert!(problems(&sound).contains("is not the image's configuration"));
        fs::remove_file(configuration).unwrap();
        assert!(problems(&sound).contains("are unknown"));
    }

    #[test]
    fn a_name_that_leads_elsewhere_and_whiteouts_are_named() {
        let sound = sound();
        let root = sound.directory.path();
        let layer = root.join(ducc::layer(&sound.layers[1]));
        fs::create_dir(layer.join("etc")).unwrap();
        fs::write(layer.join("etc/.wh.gone"), "").unwrap();
        assert!(problems(&sound).contains("/etc/.wh.gone stands for a deleted file"));
        let other: ImageId = "ab".repeat(32).parse().unwrap();
        fs::remove_file(root.join(NAME)).unwrap();
        symlink(Path::new("../..").join(ducc::flat(&other)), root.join(NAME)).unwrap();
        fs::create_dir_all(root.join(ducc::flat(&other))).unwrap();
        assert!(problems(&sound).contains("the name leads to abababababab"));
    }
}
