//! An unpacked image of a repository.

use std::fs;
use std::path::{Path, PathBuf};

use parallax_format::digest::{Digest, ImageId, Sha256};
use parallax_format::ducc;
use parallax_format::oci::Manifest;

use crate::{TreeError, is_absent, oci_layout, read};

/// An unpacked image of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The repository's root.
    pub repository: PathBuf,
    /// The image's public name, if it was found by that.
    pub name: Option<String>,
    /// The image id.
    pub id: ImageId,
}

/// Where the files of an image lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Files {
    /// In this directory.
    Directory(PathBuf),
    /// In these directories, the topmost layer first, relative to the repository's root. Files whose names begin with [`ducc::WHITEOUT`] stand for
    /// deleted ones.
    Layers(Vec<String>),
}

impl Image {
    /// Returns the image that a path means: by the place that the path leads to, or by the manifest of the public name that the path
    /// ends in. `None` for a directory that is in no repository.
    ///
    /// # Errors
    /// [`TreeError`]: a manifest is there and cannot be used.
    pub fn of_path(path: &Path) -> Result<Option<Self>, TreeError> {
        let by_name = Self::by_manifest(path)?;
        let place = path.canonicalize().ok();
        let Some((repository, id)) = place.as_deref().and_then(ducc::flat_image) else { return Ok(by_name) };
        // What runs is what lies there, also where the manifest of the name is that of another image.
        let name = by_name.and_then(|image| image.name);
        Ok(Some(Self { repository: repository.to_owned(), name, id }))
    }

    fn by_manifest(path: &Path) -> Result<Option<Self>, TreeError> {
        for repository in path.ancestors().skip(1) {
            let Ok(name) = path.strip_prefix(repository) else { continue };
            let Some(id) = id_in_manifest(repository, name)? else { continue };
            let name = name.to_str().map(ToOwned::to_owned);
            return Ok(Some(Self { repository: repository.to_owned(), name, id }));
        }
        Ok(None)
    }

    /// Returns the path of the image's directory, which need not be there.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.repository.join(ducc::flat(&self.id))
    }

    /// Returns where the image's files lie: in its own directory, in one with its layers together, or in one for each layer; `None` if they are not
    /// there, or not all of them.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn files(&self, sha256: impl Fn(&[u8]) -> Sha256) -> Result<Option<Files>, TreeError> {
        let flat = self.directory();
        if has_files(&flat)? {
            return Ok(Some(Files::Directory(flat)));
        }
        // The manifest of a name may be that of another image.
        let is_own = |manifest: &Manifest| manifest.config.digest.ends_with(self.id.as_str());
        let Some(manifest) = self.manifest()?.filter(is_own) else { return Ok(None) };
        let digests: Option<Vec<Digest>> = manifest.layers.iter().map(|layer| Digest::parse(&layer.digest)).collect();
        let Some(digests) = digests else { return Ok(None) };
        let chain = ducc::chain(&digests, sha256).map(|chain| self.repository.join(chain));
        if let Some(chain) = chain {
            if has_files(&chain)? {
                return Ok(Some(Files::Directory(chain)));
            }
        }
        let layers: Option<Vec<String>> = digests.iter().rev().map(|digest| self.layer(digest)).collect();
        Ok(layers.filter(|layers| !layers.is_empty()).map(Files::Layers))
    }

    /// Returns the directory with the files of a layer, relative to the repository's root, by its digest in the manifest; `None` if it is not there.
    #[must_use]
    pub fn layer(&self, digest: &Digest) -> Option<String> {
        let is_there = |place: &String| self.repository.join(place).is_dir();
        [ducc::layer(digest), ducc::plain_layer(digest)].into_iter().find(is_there)
    }

    /// Returns the path of the image's configuration: in DUCC's store for Podman, or in the OCI layout.
    #[must_use]
    pub fn configuration_path(&self) -> PathBuf {
        let blob = self.repository.join(ducc::blob(&Digest::from(self.id)));
        if blob.is_file() { blob } else { self.repository.join(ducc::configuration(&self.id)) }
    }

    /// Reads the image's configuration, JSON, if the repository has it. Another file in its place, such as the error of a registry, is none: an
    /// image's id is the SHA-256 of its configuration, which `sha256` takes.
    ///
    /// # Errors
    /// [`TreeError::Read`].
    pub fn configuration(&self, sha256: impl Fn(&[u8]) -> Sha256) -> Result<Option<String>, TreeError> {
        Ok(self.configuration_file()?.filter(|text| ImageId::from(sha256(text.as_bytes())) == self.id))
    }

    /// Reads the file in the place of the image's configuration, whatever it is.
    ///
    /// # Errors
    /// [`TreeError::Read`].
    pub fn configuration_file(&self) -> Result<Option<String>, TreeError> {
        read(&self.configuration_path())
    }

    /// Reads the image's manifest, if the repository has it under the image's public name.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn manifest(&self) -> Result<Option<Manifest>, TreeError> {
        let Some(name) = &self.name else { return Ok(None) };
        match manifest(&self.repository, Path::new(name))? {
            Some(manifest) => Ok(Some(manifest)),
            None => oci_layout::manifest(&self.repository, name),
        }
    }
}

/// Whether a directory has a file that is not one of DUCC's own, which it adds before or after the image's.
fn has_files(directory: &Path) -> Result<bool, TreeError> {
    let is_dotted = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(b".");
    match fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.any(|entry| entry.is_ok_and(|entry| !is_dotted(&entry)))),
        Err(error) if is_absent(&error) => Ok(false),
        Err(cause) => Err(TreeError::Read { path: directory.to_owned(), cause }),
    }
}

/// Reads the manifest that a repository has of the image with this public name.
pub(crate) fn manifest(repository: &Path, name: &Path) -> Result<Option<Manifest>, TreeError> {
    let path = repository.join(ducc::manifest(name));
    let malformed = |error: serde_json::Error| TreeError::Malformed { path: path.clone(), reason: error.to_string() };
    read(&path)?.map(|text| serde_json::from_str(&text).map_err(malformed)).transpose()
}

/// Reads the image's id in the manifest of this public name.
pub(crate) fn id_in_manifest(repository: &Path, name: &Path) -> Result<Option<ImageId>, TreeError> {
    let Some(manifest) = manifest(repository, name)? else { return Ok(None) };
    id_of(&manifest, &repository.join(ducc::manifest(name))).map(Some)
}

/// Returns the id of the image with a manifest, which `path` has.
pub(crate) fn id_of(manifest: &Manifest, path: &Path) -> Result<ImageId, TreeError> {
    let digest = Digest::parse(&manifest.config.digest).ok_or_else(|| TreeError::Malformed {
        path: path.to_owned(),
        reason: "the digest of its configuration is invalid".to_owned(),
    })?;
    Ok(ImageId::from(*digest.sha256()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn an_image_is_found_by_its_manifest_and_by_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let repository = directory.path().canonicalize().unwrap();
        let (id, other): (ImageId, ImageId) = ("ab".repeat(32).parse().unwrap(), "cd".repeat(32).parse().unwrap());
        let name = "registry.example.org/library/python:3";
        let (flat, public) = (repository.join(ducc::flat(&id)), repository.join(name));
        fs::create_dir_all(&flat).unwrap();
        fs::create_dir_all(public.parent().unwrap()).unwrap();
        symlink(&flat, &public).unwrap();
        assert_eq!(Image::of_path(directory.path()).unwrap(), None);

        let found = Image::of_path(&public).unwrap().unwrap();
        assert_eq!((found.id, &found.name, found.directory()), (id, &None, flat));
        assert_eq!((found.configuration_file().unwrap(), found.manifest().unwrap()), (None, None));

        // The manifest of a name may be that of another image.
        let manifest = repository.join(ducc::manifest(Path::new(name)));
        fs::create_dir_all(manifest.parent().unwrap()).unwrap();
        fs::write(&manifest, format!(r#"{{"config":{{"digest":"sha256:{other}","size":1}},"layers":[]}}"#)).unwrap();
        let found = Image::of_path(&public).unwrap().unwrap();
        assert_eq!((found.id, found.name.as_deref()), (id, Some(name)));
        fs::remove_file(&public).unwrap();
        fs::create_dir(&public).unwrap();
        let found = Image::of_path(&public).unwrap().unwrap();
        assert_eq!((found.id, found.name.as_deref()), (other, Some(name)));
        assert_eq!(found.manifest().unwrap().unwrap().layers.len(), 0);
        fs::create_dir_all(found.configuration_path().parent().unwrap()).unwrap();
        fs::write(found.configuration_path(), "{}").unwrap();
        assert_eq!(found.configuration_file().unwrap().as_deref(), Some("{}"));
        let digest = |part: &str| part.repeat(32).parse::<Sha256>().unwrap();
        assert_eq!(found.configuration(|_| digest("ee")).unwrap(), None, "it is another file");
        assert_eq!(found.configuration(|_| digest(&other.as_str()[..2])).unwrap().as_deref(), Some("{}"));

        // The files of layers are used where the image's directory has none, and the directory of all layers where it is.
        let layers = ["01", "02"].map(|part| Digest::parse(&format!("sha256:{}", part.repeat(32))).unwrap());
        let listed = layers.map(|layer| format!(r#"{{"digest":"{layer}","size":1}}"#)).join(",");
        let text = format!(r#"{{"config":{{"digest":"sha256:{other}","size":1}},"layers":[{listed}]}}"#);
        fs::write(&manifest, text).unwrap();
        let sha256 = |_: &[u8]| digest("ee");
        assert_eq!(found.files(sha256).unwrap(), None);
        fs::create_dir_all(repository.join(ducc::layer(&layers[0]))).unwrap();
        assert_eq!(found.files(sha256).unwrap(), None, "a layer is missing");
        fs::create_dir_all(repository.join(ducc::plain_layer(&layers[1]))).unwrap();
        let places = vec![ducc::plain_layer(&layers[1]), ducc::layer(&layers[0])];
        assert_eq!(found.files(sha256).unwrap(), Some(Files::Layers(places)));
        for (place, file) in [(ducc::chain(&layers, sha256).unwrap(), "usr"), (ducc::flat(&other), "usr")] {
            let place = repository.join(place);
            fs::create_dir_all(place.join(".singularity.d")).unwrap();
            assert_ne!(
                found.files(sha256).unwrap(),
                Some(Files::Directory(place.clone())),
                "there are only DUCC's files"
            );
            fs::create_dir(place.join(file)).unwrap();
            assert_eq!(found.files(sha256).unwrap(), Some(Files::Directory(place)));
        }

        fs::write(&manifest, "{}").unwrap();
        assert!(Image::of_path(&public).unwrap_err().to_string().contains("manifest.json is malformed"));
    }
}
