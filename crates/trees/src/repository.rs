//! The images of a repository, by their names.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parallax_format::digest::ImageId;
use parallax_format::{ImageName, ImageRef, ducc};

use crate::image::{Image, id_in_manifest, id_of};
use crate::{TreeError, is_absent, oci_layout};

/// Maximum depth of a public name, whose parts are directories.
const MAX_DEPTH: usize = 16;
/// Maximum number of directories that are read to find a name which a user may have meant. A repository on CVMFS may have thousands.
const MAX_SUGGESTED: usize = 400;

/// A repository of unpacked images.
#[derive(Debug, Clone, Copy)]
pub struct Repository<'a> {
    root: &'a Path,
}

impl<'a> Repository<'a> {
    /// Returns the repository with this root, which need not be there.
    #[must_use]
    pub fn new(root: &'a Path) -> Self {
        Self { root }
    }

    /// Returns the place of the image that a reference means, a public name or an id in the repository; `None` if the repository does not have it.
    ///
    /// # Errors
    /// Those of the system: the repository cannot be searched. One that is not there says nothing about its images.
    pub fn find(&self, reference: &ImageRef) -> io::Result<Option<PathBuf>> {
        fs::metadata(self.root)?;
        for place in ducc::places(reference) {
            let path = self.root.join(place);
            match fs::metadata(&path) {
                Ok(_) => return Ok(Some(path)),
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Returns the image that a reference means; `None` if the repository has it neither unpacked nor in its metadata.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn image(&self, reference: &ImageRef) -> Result<Option<Image>, TreeError> {
        for place in ducc::places(reference) {
            if let Some(image) = self.image_at(&place)? {
                return Ok(Some(image));
            }
        }
        Ok(None)
    }

    /// Returns the image with a public name, or at a place for an id. The link of the name comes first: it is what runs.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn image_at(&self, place: &str) -> Result<Option<Image>, TreeError> {
        let path = self.root.join(place);
        // A link that leads nowhere names the image, too.
        let directory = path.canonicalize().or_else(|_| fs::read_link(&path)).ok();
        let flat = directory.as_deref().and_then(ducc::flat_image).map(|(_, id)| id);
        let id = match flat {
            Some(id) => Some(id),
            None => match id_in_manifest(self.root, Path::new(place))? {
                Some(id) => Some(id),
                None => self.id_in_layout(place)?,
            },
        };
        let name = ducc::flat_image(&path).is_none().then(|| place.to_owned());
        Ok(id.map(|id| Image { repository: self.root.to_owned(), name, id }))
    }

    fn id_in_layout(&self, name: &str) -> Result<Option<ImageId>, TreeError> {
        let manifest = oci_layout::manifest(self.root, name)?;
        manifest.map(|manifest| id_of(&manifest, &self.root.join(ducc::OCI_INDEX))).transpose()
    }

    /// Returns the public names of all images, sorted: those with a link, those that only the metadata has, and those of an OCI layout.
    ///
    /// # Errors
    /// [`TreeError::Read`].
    pub fn names(&self) -> Result<BTreeSet<String>, TreeError> {
        let mut names = BTreeSet::new();
        let mut left = usize::MAX;
        Walk { base: self.root, kind: Kind::Links, left: &mut left, names: &mut names }.read(self.root, 0)?;
        let metadata = self.root.join(ducc::METADATA);
        if metadata.is_dir() {
            Walk { base: &metadata, kind: Kind::Manifests, left: &mut left, names: &mut names }.read(&metadata, 0)?;
        }
        names.extend(oci_layout::names(self.root)?);
        Ok(names)
    }

    /// Returns public names that a user may have meant, of images that are unpacked. Of a large repository only a part is read, and
    /// what cannot be read is passed over.
    fn suggested(&self) -> Vec<ImageName> {
        let mut names = BTreeSet::new();
        let mut left = MAX_SUGGESTED;
        let _ = Walk { base: self.root, kind: Kind::Links, left: &mut left, names: &mut names }.read(self.root, 0);
        names.iter().filter_map(|name| ducc::image_name(name)).collect()
    }
}

/// Returns public names that a user may have meant, of images that are unpacked in these repositories.
#[must_use]
pub fn known_names(repositories: &[PathBuf]) -> Vec<ImageName> {
    repositories.iter().flat_map(|root| Repository::new(root).suggested()).collect()
}

/// Returns the sentence for an image that one of these repositories has in layers only, which nothing can run before an import; `None` if
/// none has it. `typed` is what the user wrote. What cannot be read is passed over.
#[must_use]
pub fn only_in_layers(typed: &str, reference: &ImageRef, repositories: &[PathBuf]) -> Option<String> {
    let root = repositories.iter().find(|root| matches!(Repository::new(root).image(reference), Ok(Some(_))))?;
    let root = root.display();
    Some(format!(
        "image \"{typed}\" is in layers in {root}, without a directory of all its files. Ask for it with: parallax import --unpacked {root} {typed}"
    ))
}

/// What names are found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Symbolic links to unpacked images.
    Links,
    /// Manifests in directories.
    Manifests,
}

/// A walk through the directories that are parts of public names.
struct Walk<'a> {
    base: &'a Path,
    kind: Kind,
    /// Number of directories that may be read yet.
    left: &'a mut usize,
    names: &'a mut BTreeSet<String>,
}

impl Walk<'_> {
    fn read(&mut self, directory: &Path, depth: usize) -> Result<(), TreeError> {
        let failed = |cause| TreeError::Read { path: directory.to_owned(), cause };
        let Some(left) = self.left.checked_sub(1) else { return Ok(()) };
        *self.left = left;
        for entry in fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let (path, name) = (entry.path(), entry.file_name());
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() && depth < MAX_DEPTH && !ducc::is_own(&name) {
                self.read(&path, depth + 1)?;
            }
            let is_image = match self.kind {
                Kind::Links => {
                    kind.is_symlink() && fs::read_link(&path).is_ok_and(|to| ducc::flat_image(&to).is_some())
                }
                Kind::Manifests => name == ducc::MANIFEST,
            };
            let place = if self.kind == Kind::Links { &path } else { directory };
            let public = place.strip_prefix(self.base).ok().and_then(Path::to_str).filter(|_| is_image);
            self.names.extend(public.map(ToOwned::to_owned));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A repository with an image that has a name of Docker Hub, one without a name and one that only the metadata has.
    fn repository() -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let id = "ab".repeat(32);
        let hub = root.join("registry.hub.docker.com/library");
        for path in [&hub, &root.join(".flat/ab").join(&id), &root.join("podmanStore/overlay/l")] {
            fs::create_dir_all(path).unwrap();
        }
        symlink(format!("../../.flat/ab/{id}"), hub.join("python:3")).unwrap();
        symlink(format!("../../.flat/ab/{id}"), root.join("podmanStore/overlay/l/X")).unwrap();
        let manifest = root.join(ducc::manifest(Path::new("quay.io/a/b:1")));
        fs::create_dir_all(manifest.parent().unwrap()).unwrap();
        let other = "cd".repeat(32);
        fs::write(manifest, format!(r#"{{"config":{{"digest":"sha256:{other}","size":1}},"layers":[]}}"#)).unwrap();
        (directory, id)
    }

    #[test]
    fn names_and_ids_are_found_and_a_missing_repository_is_an_error() {
        let (directory, id) = repository();
        let find = |root: &Path, text: &str| Repository::new(root).find(&ImageRef::parse(text).unwrap());
        let root = directory.path();
        assert_eq!(find(root, "python:3").unwrap(), Some(root.join("registry.hub.docker.com/library/python:3")));
        assert_eq!(find(root, &id).unwrap(), Some(root.join(".flat/ab").join(&id)));
        assert_eq!((find(root, "python:4").unwrap(), find(root, "quay.io/a/b").unwrap()), (None, None));
        assert!(find(&root.join("missing"), "python:3").is_err());
    }

    #[test]
    fn images_are_listed_by_links_and_by_manifests() {
        let (directory, id) = repository();
        let of = Repository::new(directory.path());
        let names: Vec<String> = of.names().unwrap().into_iter().collect();
        assert_eq!(names, ["quay.io/a/b:1", "registry.hub.docker.com/library/python:3"]);
        let image = |text: &str| of.image(&ImageRef::parse(text).unwrap()).unwrap();
        let found = image("python:3").unwrap();
        assert_eq!((found.id.to_string(), found.name.as_deref()), (id.clone(), Some(names[1].as_str())));
        assert_eq!(image(&id).unwrap().name, None);
        assert!(!image("quay.io/a/b:1").unwrap().directory().exists());
        fs::remove_dir(found.directory()).unwrap();
        assert_eq!(image("python:3"), Some(found));
        assert_eq!(image("quay.io/a/b:2"), None);
    }

    #[test]
    fn what_must_be_imported_is_told() {
        let (directory, _) = repository();
        let root = directory.path();
        let told = |text: &str| {
            let repositories = [root.join("missing"), root.to_owned()];
            only_in_layers(text, &ImageRef::parse(text).unwrap(), &repositories)
        };
        let told_of_b = told("quay.io/a/b:1").unwrap();
        let command = format!("Ask for it with: parallax import --unpacked {} quay.io/a/b:1", root.display());
        assert!(
            told_of_b.starts_with("image \"quay.io/a/b:1\" is in layers in ") && told_of_b.ends_with(&command),
            "{told_of_b}"
        );
        assert_eq!(told("quay.io/a/b:2"), None);
    }

    #[test]
    fn only_what_can_be_run_is_suggested() {
        let (directory, _) = repository();
        let known = known_names(&[directory.path().join("missing"), directory.path().to_owned()]);
        assert_eq!(known, [ImageName::from_registry("python:3").unwrap()]);
    }
}
