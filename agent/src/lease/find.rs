//! The search for the requested image, and the result for an image that is in no store.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parallax_config::{Config, OnMissing, OnUnreachable};
use parallax_format::digest::ImageId;
use parallax_format::record::ImageRecord;
use parallax_format::{ImageRef, RequestedImage, ambiguous_id, id_prefix, nearest};
use parallax_protocol::message::{LeaseRequest, Mode};
use parallax_store::read::{OpenError, TrustedStore, Unrecorded};
use parallax_sys::credentials::Credentials;
use parallax_trees::{known_names, only_in_layers};

use super::access::Obstacles;
use super::reach::{self, Failure, Place};
use super::refusal::{Refusal, no_container, refused};
use super::table::Leases;
use super::trees;
use crate::backend::Retry;
use crate::layers::Tree;

/// The result of the search for an image.
#[derive(Debug)]
pub(super) enum Found {
    /// A store has the image.
    Image {
        /// The store.
        store: TrustedStore,
        /// The image's record.
        image: Box<ImageRecord>,
        /// The directory with the contents of the files, if it has a metadata image.
        tree: Option<Tree>,
    },
    /// The image is a directory of the node, or a file.
    Directory {
        /// Its path.
        path: PathBuf,
        /// Why its metadata image is not used, if it has one.
        without_metadata: Option<String>,
    },
    /// No store has the image, and Podman is to pull it; a notice for the user.
    Missing(String),
}

impl Found {
    fn image(store: TrustedStore, image: Box<ImageRecord>) -> Self {
        Self::Image { store, image, tree: None }
    }

    fn directory(path: PathBuf) -> Self {
        Self::Directory { path, without_metadata: None }
    }

    /// The directory with the contents of the files, for a metadata image.
    pub(super) fn tree(&self) -> Option<&Tree> {
        if let Self::Image { tree, .. } = self { tree.as_ref() } else { None }
    }
}

impl Leases {
    /// Looks up the store and the record of the requested image with the user's credentials: no store is read that the user may
    /// not read. A directory is not looked up.
    pub(super) fn find_image(&self, request: &LeaseRequest, user: &Credentials) -> Result<Found, Refusal> {
        let requested = RequestedImage::parse(&request.image).map_err(|error| Refusal::request(error.to_string()))?;
        let typed = match requested {
            RequestedImage::Path(path) => return Ok(Found::directory(path)),
            RequestedImage::OfContainer(name) => return Err(no_container(&name)),
            RequestedImage::InStore(typed) => typed,
        };
        // The id says what the name meant at submit time. An image removed since then is not replaced by another.
        let reference = match &request.image_id {
            Some(id) => ImageRef::parse(id).map_err(|error| Refusal::request(error.to_string()))?,
            None => typed,
        };
        let config = self.config();
        let search = Arc::new(Search {
            reference,
            name: request.image.clone(),
            is_pinned: request.image_id.is_some(),
            user: user.clone(),
            config: Arc::clone(&config),
            backends: self.backend_retry.clone(),
        });
        let within = Arc::clone(&search);
        match reach::in_time(reach::time(&config.step), move |place| within.run(place)) {
            Ok(found) => Ok(found),
            Err(Failure::Refused(refusal)) => Err(refusal),
            Err(Failure::Unreachable(reason)) if config.step.on_unreachable == OnUnreachable::Pull => {
                search.pulled_instead(request.mode, &reason)
            }
            Err(Failure::Unreachable(reason)) => Err(search.refused(&reason)),
        }
    }
}

/// A look-up of an image, with all that it needs: it may outlive its request.
#[derive(Debug)]
struct Search {
    name: String,
    reference: ImageRef,
    /// True if `reference` is the id of submit time.
    is_pinned: bool,
    user: Credentials,
    config: Arc<Config>,
    backends: Retry,
}

impl Search {
    fn run(&self, place: &Place) -> Result<Found, Failure> {
        let failed = |error| Failure::Refused(refused(&format!("cannot take on the user's credentials: {error}")));
        let found = self.user.run(|| self.search_stores(place)).map_err(failed)??;
        self.with_tree(found, place).map_err(Failure::Refused)
    }

    /// Opens the directory of an image whose files lie in one. The directory itself replaces the image where the metadata image cannot be used; an
    /// image in layers is then refused.
    fn with_tree(&self, found: Found, place: &Place) -> Result<Found, Refusal> {
        let Found::Image { store, image, .. } = found else { return Ok(found) };
        let Some(directory) = image.tree() else { return Ok(Found::image(store, image)) };
        place.is(directory);
        // The node is tried again first if it is undecided what it can do.
        let usable = self.backends.backend(&store, &image);
        let usable = usable.and_then(|_| self.backends.backends().metadata_images(&store));
        let paths = &self.config.trees.paths;
        let opened = usable.and_then(|()| Tree::open(directory, image.parts(), paths, &self.user));
        match opened {
            Ok(tree) => Ok(Found::Image { store, image, tree: Some(tree) }),
            Err(reason) if !image.parts().is_empty() => Err(refused(&format!(
                "cannot run the image \"{}\", which lies in layers, on this node: {reason}",
                self.name
            ))),
            Err(reason) => {
                tracing::warn!(image = %image.id, reason, "the image's metadata image is not used");
                Ok(Found::Directory { path: directory.to_owned(), without_metadata: Some(reason) })
            }
        }
    }

    fn refused(&self, reason: &str) -> Refusal {
        refused(&format!("cannot look up the image \"{}\": {reason}", self.name))
    }

    /// Has Podman pull an image whose store is not reachable. In podman mode nobody compares what is pulled with the id of submit time.
    fn pulled_instead(&self, mode: Mode, reason: &str) -> Result<Found, Refusal> {
        let is_name = match ImageRef::parse(&self.name) {
            Ok(ImageRef::Id(_)) | Err(_) => false,
            Ok(_) => id_prefix(&self.name).is_none(),
        };
        if !is_name || (self.is_pinned && mode == Mode::Podman) {
            return Err(self.refused(reason));
        }
        Ok(Found::Missing(format!(
            "the image \"{}\" cannot be looked up ({reason}), so Podman pulls it for this step alone",
            self.name
        )))
    }

    fn search_stores(&self, place: &Place) -> Result<Found, Failure> {
        let (name, reference) = (&self.name, &self.reference);
        let mut readable = Vec::new();
        let mut obstacles = Obstacles::default();
        for path in &self.config.stores {
            place.is(path);
            match TrustedStore::open(path) {
                Ok(store) => match store.resolve(reference) {
                    Ok(Some(image)) => return Ok(Found::image(store, Box::new(image))),
                    Ok(None) => readable.push(store),
                    Err(error) => obstacles.add(error),
                },
                Err(error) => obstacles.add(error),
            }
        }
        // Another tool's images are in no index: finding one takes longer, so it comes last.
        for (at, store) in readable.iter().enumerate() {
            place.is(store.path());
            match store.resolve_unrecorded(reference) {
                Ok(Some(image)) => return Ok(unrecorded(readable.swap_remove(at), image)),
                Ok(None) => {}
                Err(error) => obstacles.add(error),
            }
        }
        if !self.is_pinned {
            if let Some(found) = by_id_prefix(name, &mut readable, &mut obstacles).map_err(Failure::Refused)? {
                return Ok(found);
            }
        }
        match trees::find(&self.config.trees.paths, reference, |path| place.is(path)) {
            Ok(Some(path)) => return Ok(Found::directory(path)),
            Ok(None) => {}
            Err((path, cause)) => obstacles.add(OpenError::Store { path, cause }),
        }
        let near = || {
            let of_trees = known_names(&self.config.trees.paths);
            nearest(name, &readable.iter().flat_map(TrustedStore::names).chain(of_trees).collect::<Vec<_>>())
        };
        if let Some(failure) = obstacles.failure(name, near) {
            return Err(failure);
        }
        if let Some(empty) = readable.iter().find(|store| is_empty(store.path())) {
            let path = empty.path().display();
            return Err(Failure::Unreachable(format!("the store {path} is empty; is its file system mounted?")));
        }
        match reference {
            ImageRef::Id(id) if self.is_pinned => Err(Failure::Refused(Refusal::user(format!(
                "the image that \"{name}\" meant at submit time (id {id:.12}) is in no store any more; submit the job again"
            )))),
            _ => self.missing(near).map_err(Failure::Refused),
        }
    }

    /// Handles an image that is in no store: a refusal, or a pull by Podman. An id cannot be pulled.
    fn missing(&self, near: impl FnOnce() -> Vec<String>) -> Result<Found, Refusal> {
        let Self { name, reference, config, .. } = self;
        let searched = config.stores.iter().chain(&config.trees.paths);
        let paths: Vec<String> = searched.map(|path| path.display().to_string()).collect();
        let is_name = !matches!(reference, ImageRef::Id(_)) && id_prefix(name).is_none();
        if config.step.on_missing == OnMissing::Pull && is_name {
            return Ok(Found::Missing(format!(
                "the image \"{name}\" is in no store ({}), so Podman pulls it for this step alone",
                paths.join(", ")
            )));
        }
        let in_layers = only_in_layers(name, reference, &config.trees.paths);
        Err(Refusal::request(in_layers.unwrap_or_else(|| parallax_format::unknown_image(name, &paths, &near()))))
    }
}

/// The result for an image of Podman's list. One that lies unpacked is a directory like any other: nothing of it is in the store.
fn unrecorded(store: TrustedStore, image: Unrecorded) -> Found {
    match image {
        Unrecorded::Record(record) => Found::image(store, record),
        Unrecorded::Unpacked(directory) => Found::directory(directory),
    }
}

/// Whether a store's directory has nothing in it, as mount points have without their mounts.
fn is_empty(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// Adds the name that an image had when its job was submitted, if it has moved to another image since: Podman finds the image in
/// the step store by that name throughout the job.
pub(super) fn add_name(names: &mut Vec<String>, asked_for: &str) {
    let Ok(ImageRef::Name(candidates)) = ImageRef::parse(asked_for) else { return };
    if id_prefix(asked_for).is_some() {
        return;
    }
    let candidates: Vec<String> = candidates.iter().map(ToString::to_string).collect();
    if !candidates.iter().any(|name| names.contains(name)) {
        names.extend(candidates.into_iter().next());
    }
}

/// Searches for the image whose id begins with `name`, which is not the name of an image.
fn by_id_prefix(
    name: &str,
    stores: &mut Vec<TrustedStore>,
    obstacles: &mut Obstacles,
) -> Result<Option<Found>, Refusal> {
    let Some(prefix) = id_prefix(name) else { return Ok(None) };
    let mut ids = BTreeSet::new();
    let mut holder = None;
    for (at, store) in stores.iter().enumerate() {
        match store.ids_with_prefix(prefix) {
            Ok(found) => {
                holder = holder.or((!found.is_empty()).then_some(at));
                ids.extend(found);
            }
            Err(error) => obstacles.add(error),
        }
    }
    let mut ids: Vec<ImageId> = ids.into_iter().collect();
    if ids.len() > 1 {
        return Err(Refusal::request(ambiguous_id(name, &ids)));
    }
    let (Some(id), Some(at)) = (ids.pop(), holder) else { return Ok(None) };
    let Some(store) = stores.get(at) else { return Ok(None) };
    let reference = ImageRef::Id(id);
    let image = match store.resolve(&reference) {
        Ok(None) => store.resolve_unrecorded(&reference),
        found => found.map(|image| image.map(|image| Unrecorded::Record(Box::new(image)))),
    };
    match image {
        Ok(image) => Ok(image.map(|image| unrecorded(stores.swap_remove(at), image))),
        Err(error) => {
            obstacles.add(error);
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_moved_is_kept_for_the_job() {
        let named = |asked_for: &str| {
            let mut names = vec!["docker.io/library/python:3".to_owned()];
            add_name(&mut names, asked_for);
            names.split_off(1)
        };
        assert_eq!(named("app:1"), ["localhost/app:1"]);
        assert_eq!(named("quay.io/org/app:1"), ["quay.io/org/app:1"]);
        for text in ["python:3", "docker.io/library/python:3", "0909040c2251", &"ab".repeat(32)] {
            assert!(named(text).is_empty(), "{text}");
        }
    }
}
