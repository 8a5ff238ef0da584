//! The image that is meant, and what is done about one that is in no store.

use parallax_config::OnMissing;
use parallax_names::{ImageRef, nearest};
use parallax_protocol::message::LeaseRequest;
use parallax_store::open::TrustedStore;
use parallax_store::record::ImageRecord;
use parallax_sys::credentials::Credentials;

use super::access::Obstacles;
use super::acquire::refused;
use super::{Leases, Refusal};

/// An image that was asked for.
#[derive(Debug)]
pub enum Found {
    /// It is in this store.
    Image(TrustedStore, Box<ImageRecord>),
    /// It is in none, and is to be pulled; what the user is to be told.
    Missing(String),
}

impl Leases {
    /// The store and the record of the image that is meant, looked up with the user's credentials: nothing of a store that the user
    /// may not read is read for them.
    pub(super) fn find_image(&self, request: &LeaseRequest, user: &Credentials) -> Result<Found, Refusal> {
        user.run(|| self.search_stores(request))
            .map_err(|error| refused(&format!("cannot take on the user's credentials: {error}")))?
    }

    fn search_stores(&self, request: &LeaseRequest) -> Result<Found, Refusal> {
        let name = &request.image;
        let typed = ImageRef::parse(name).map_err(|error| Refusal(error.to_string()))?;
        // The id says what the name meant at submit time. An image removed since then is not replaced by another.
        let reference = match &request.image_id {
            Some(id) => ImageRef::parse(id).map_err(|error| Refusal(error.to_string()))?,
            None => typed,
        };
        let mut readable = Vec::new();
        let mut obstacles = Obstacles::default();
        for path in &self.config().stores {
            match TrustedStore::open(path) {
                Ok(store) => match store.resolve(&reference) {
                    Ok(Some(image)) => return Ok(Found::Image(store, Box::new(image))),
                    Ok(None) => readable.push(store),
                    Err(error) => obstacles.add(error),
                },
                Err(error) => obstacles.add(error),
            }
        }
        // Another tool's images are in no index: finding one takes longer, so it comes last.
        for (at, store) in readable.iter().enumerate() {
            match store.resolve_foreign(&reference) {
                Ok(Some(image)) => return Ok(Found::Image(readable.swap_remove(at), Box::new(image))),
                Ok(None) => {}
                Err(error) => obstacles.add(error),
            }
        }
        let near = || nearest(name, &readable.iter().flat_map(TrustedStore::names).collect::<Vec<_>>());
        if let Some(refusal) = obstacles.refusal(name, near) {
            return Err(refusal);
        }
        match &request.image_id {
            Some(id) => Err(Refusal(format!(
                "the image that \"{name}\" meant at submit time (id {id:.12}) is in no store any more; submit the job again"
            ))),
            None => self.missing(name, &reference, near),
        }
    }

    /// An image that is in no store: an error, or to be pulled. What is named by an id can't be pulled from anywhere.
    fn missing(&self, name: &str, reference: &ImageRef, near: impl FnOnce() -> Vec<String>) -> Result<Found, Refusal> {
        let config = self.config();
        let paths: Vec<String> = config.stores.iter().map(|path| path.display().to_string()).collect();
        if config.step.on_missing == OnMissing::Pull && !matches!(reference, ImageRef::Id(_)) {
            return Ok(Found::Missing(format!(
                "the image \"{name}\" is in no store ({}), so Podman pulls it for this step alone",
                paths.join(", ")
            )));
        }
        Err(Refusal(parallax_names::unknown_image(name, &paths, &near())))
    }
}
