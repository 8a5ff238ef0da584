//! What an agent needs that goes on with the layers of an earlier one: copies of the descriptors that each layer came with.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use parallax_lazy_file::Device;
use parallax_lazy_file::message::{Channel, FromWorker};
use parallax_lazy_file::status::{LayerStatus, MAX_LAYERS};
use parallax_sys::shared_slots::SharedSlots;

use crate::served::Served;

/// The layers that are served, by the names of their mounts.
#[derive(Debug, Default)]
pub struct Handovers(Mutex<HashMap<String, Arc<Handover>>>);

/// A layer, and what it came with.
#[derive(Debug)]
pub struct Handover {
    /// The layer.
    pub served: Arc<Served>,
    /// The device by which it is served.
    pub device: Device,
    /// The slots.
    pub slots: SharedSlots,
    /// The index of its chunks.
    pub index: OwnedFd,
    /// Its whole file, if the store has it.
    pub whole: Option<OwnedFd>,
}

impl Handovers {
    /// Adds a layer.
    pub fn add(&self, mount: &str, handover: Arc<Handover>) {
        self.layers().insert(mount.to_owned(), handover);
    }

    /// Forgets a layer: its file is used by nothing any more. Another layer may have the name by now.
    pub fn remove(&self, mount: &str, layer: &Arc<Handover>) {
        let mut layers = self.layers();
        if layers.get(mount).is_some_and(|found| Arc::ptr_eq(found, layer)) {
            layers.remove(mount);
        }
    }

    /// Gives an agent what it needs to go on with a layer, and has it told of what comes.
    ///
    /// # Errors
    /// The reason, a part of a sentence.
    pub fn adopt(&self, mount: &str, agent: &Arc<Channel>) -> Result<String, String> {
        let found = self.layers().get(mount).cloned();
        let found = found.ok_or_else(|| format!("nothing is served for the mount {mount}"))?;
        let whole = found.whole.as_ref().map(AsFd::as_fd);
        let descriptors: Vec<BorrowedFd<'_>> =
            [found.device.as_fd(), found.slots.as_fd(), found.index.as_fd()].into_iter().chain(whole).collect();
        agent.send(&FromWorker::Adopted, &descriptors).map_err(|error| error.to_string())?;
        found.served.set_agent(agent);
        Ok(found.served.name.to_string())
    }

    /// Returns the state of the layers.
    #[must_use]
    pub fn status(&self) -> Vec<LayerStatus> {
        self.layers().values().take(MAX_LAYERS).map(|layer| layer.served.status()).collect()
    }

    fn layers(&self) -> MutexGuard<'_, HashMap<String, Arc<Handover>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
