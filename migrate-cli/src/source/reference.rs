//! References to sources of images, as typed, and the names that images get.
//!
//! No crate serves: the syntax is skopeo's, and containers-image-proxy passes it on as text.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use parallax_format::ImageName;
use parallax_format::name::{DEFAULT_TAG, LOCAL_REGISTRY, split_suffix};

/// Kind of a source, with skopeo's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// `docker://NAME`: a registry.
    Registry,
    /// `oci:DIR[:TAG]`: an OCI image layout.
    Oci,
    /// `oci-archive:FILE[:TAG]`: an OCI image layout in a tar archive.
    OciArchive,
    /// `docker-archive:FILE[:NAME]`: the output of `docker save`.
    DockerArchive,
    /// `dir:DIR`: a directory written by `skopeo copy`.
    Dir,
    /// `containers-storage:NAME`: the user's Podman.
    ContainersStorage,
}

const TRANSPORTS: [(&str, Transport); 6] = [
    ("docker://", Transport::Registry),
    ("oci:", Transport::Oci),
    ("oci-archive:", Transport::OciArchive),
    ("docker-archive:", Transport::DockerArchive),
    ("dir:", Transport::Dir),
    ("containers-storage:", Transport::ContainersStorage),
];

/// A source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Kind of the source.
    pub transport: Transport,
    /// The text as typed, which skopeo accepts.
    pub text: String,
    /// The part after the transport.
    pub rest: String,
}

impl Reference {
    /// Returns the reference to an image of a registry, by its name.
    pub fn registry(name: &str) -> Self {
        Self { transport: Transport::Registry, text: format!("docker://{name}"), rest: name.to_owned() }
    }

    /// Parses a source; `None` if the text has no known transport, such as a name.
    ///
    /// # Errors
    /// If the part after the transport is missing, or the text is not a valid name either.
    pub fn parse(text: &str) -> anyhow::Result<Option<Self>> {
        let found = TRANSPORTS.iter().find_map(|(prefix, transport)| Some((*transport, text.strip_prefix(prefix)?)));
        match found {
            Some((_, "")) => bail!("the source \"{}\" names nothing", text.escape_debug()),
            Some((transport, rest)) => Ok(Some(Self { transport, text: text.to_owned(), rest: rest.to_owned() })),
            None if ImageName::from_registry(text).is_ok() => Ok(None),
            None => bail!(
                "the source \"{0}\" is no image name and does not say where the image is: write docker://NAME, \
                 containers-storage:NAME, oci:DIR, oci-archive:FILE, docker-archive:FILE or dir:DIR",
                text.escape_debug()
            ),
        }
    }

    /// Converts a name in the user's own storage to one in the storage at `root`, whose state is kept in `run_root`.
    ///
    /// # Errors
    /// If the source names a storage itself, or `root` has no storage.
    pub fn move_to_storage(&mut self, root: &Path, run_root: &Path) -> anyhow::Result<()> {
        ensure!(!self.rest.starts_with('['), "{} names a storage, and so does --podman-root; give one", self.text);
        let root = root.canonicalize().with_context(|| format!("cannot read {}", root.display()))?;
        let driver = driver_of(&root).with_context(|| format!("{} is not a storage of Podman", root.display()))?;
        self.rest = format!("[{driver}@{}+{}]{}", root.display(), run_root.display(), self.rest);
        self.text = format!("containers-storage:{}", self.rest);
        Ok(())
    }

    /// Returns the storage that a source in Podman's storage names, `[driver@root]` or nothing, and the image in it.
    pub fn within_storage(&self) -> (&str, &str) {
        let end = self.rest.strip_prefix('[').and_then(|rest| rest.find(']')).map_or(0, |at| at + 2);
        self.rest.split_at(end)
    }

    /// The same storage's image `name`, a name or `@ID`.
    #[must_use]
    pub fn with_image(&self, name: &str) -> Self {
        let rest = format!("{}{name}", self.within_storage().0);
        Self { transport: self.transport, text: format!("containers-storage:{rest}"), rest }
    }

    /// Returns the name for an image that has no name and for which none is given.
    ///
    /// # Errors
    /// If the source has no usable name.
    pub fn default_name(&self) -> anyhow::Result<ImageName> {
        let derived = match self.transport {
            Transport::Registry => ImageName::from_registry(&self.rest),
            Transport::ContainersStorage => ImageName::for_storing(self.within_storage().1),
            _ => ImageName::for_storing(&self.name_of_path()),
        };
        derived.with_context(|| format!("{} gives the image no name; give it one with --name NAME", self.text))
    }

    /// Returns `localhost/<base name>:<tag>` for a source in the file system.
    fn name_of_path(&self) -> String {
        let (path, tag) = match self.transport {
            Transport::Dir => (&*self.rest, None),
            // skopeo splits at the first colon too.
            _ => self.rest.split_once(':').map_or((&*self.rest, None), |(path, tag)| (path, Some(tag))),
        };
        // A tag may be a whole name: that of an image in an archive.
        if let Some(name) = tag.filter(|tag| tag.contains(['/', ':'])) {
            return name.to_owned();
        }
        let base = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let base = [".tar.gz", ".tgz", ".tar"].iter().find_map(|suffix| base.strip_suffix(suffix)).unwrap_or(base);
        format!("{LOCAL_REGISTRY}/{base}:{}", tag.unwrap_or(DEFAULT_TAG))
    }

    /// Returns the reference to one image of an index, by digest; only registries and Podman's storage support this.
    pub fn with_digest(&self, digest: &str) -> Option<String> {
        let (transport, rest) = match self.transport {
            Transport::Registry => ("docker://".to_owned(), &*self.rest),
            Transport::ContainersStorage => {
                let (storage, rest) = self.within_storage();
                (format!("containers-storage:{storage}"), rest)
            }
            _ => return None,
        };
        Some(format!("{transport}{}@{digest}", split_suffix(rest).0))
    }
}

/// Returns the driver of the Podman storage at `root`, by the directory of its images.
pub(super) fn driver_of(root: &Path) -> Option<&'static str> {
    ["overlay", "vfs", "btrfs", "zfs"].into_iter().find(|driver| root.join(format!("{driver}-images")).is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> String {
        Reference::parse(text).unwrap().unwrap().default_name().unwrap().to_string()
    }

    #[test]
    fn sources_have_names() {
        assert_eq!(name("docker://python"), "docker.io/library/python:latest");
        assert_eq!(name("docker://quay.io/a/b:1"), "quay.io/a/b:1");
        assert_eq!(name("containers-storage:debian:12"), "localhost/debian:12");
        assert_eq!(name("containers-storage:[overlay@/x/y+/run/y]quay.io/a:1"), "quay.io/a:1");
        assert_eq!(name("oci:/images/python"), "localhost/python:latest");
        assert_eq!(name("oci:images/python/:3.12"), "localhost/python:3.12");
        assert_eq!(name("oci-archive:/tmp/app.tar:v1"), "localhost/app:v1");
        assert_eq!(name("docker-archive:/tmp/x.tar.gz:docker.io/library/app:v1"), "docker.io/library/app:v1");
        assert_eq!(name("dir:/tmp/app"), "localhost/app:latest");
    }

    #[test]
    fn a_source_without_a_usable_name_asks_for_one() {
        let error = Reference::parse("oci:/images/My Image").unwrap().unwrap().default_name().unwrap_err();
        assert!(error.to_string().contains("--name"), "{error}");
        assert_eq!(Reference::parse("python:3.12").unwrap(), None);
        assert!(Reference::parse("/tmp/app.tar").unwrap_err().to_string().contains("oci-archive:FILE"));
        assert!(Reference::parse("oci:").is_err());
    }

    #[test]
    fn one_image_of_an_index() {
        let digest = |text: &str| Reference::parse(text).unwrap().unwrap().with_digest("sha256:1");
        assert_eq!(digest("docker://localhost:5000/a:1").unwrap(), "docker://localhost:5000/a@sha256:1");
        assert_eq!(digest("docker://localhost:5000/a@sha256:2").unwrap(), "docker://localhost:5000/a@sha256:1");
        assert_eq!(digest("oci:/a:1"), None);
        let own = "containers-storage:[overlay@/x+/run/y]quay.io/a:1";
        assert_eq!(digest(own).unwrap(), "containers-storage:[overlay@/x+/run/y]quay.io/a@sha256:1");
    }
}
