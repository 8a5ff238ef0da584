//! In-use markers: files in the store that say which images this node uses, for those who remove images.
//!
//! One thread writes them, and no step waits for it: no step starts or ends later because the store's file system
//! is slow, and where root may not write the store (read-only, or NFS with root_squash) nothing is written, which is logged
//! once. An image has one file on this node, whatever the number of steps: it is written with the first and removed with
//! the last.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Instant;

use parallax_store::in_use::{Marker, MarkerDirectory, Node, RENEWAL_INTERVAL};
use parallax_store::read::TrustedStore;

use crate::journal::StoreImage;

/// An order to the thread.
#[derive(Debug)]
enum Order {
    Mark(StoreImage),
    Unmark(StoreImage),
    /// Removes the markers of an earlier agent in these stores whose images are not in use.
    Sweep(Vec<PathBuf>),
}

/// The channel to the thread that writes the markers.
#[derive(Debug)]
pub struct InUseMarkers {
    orders: Sender<Order>,
}

/// One step's use of an image. Ends when the value is dropped.
#[derive(Debug)]
pub struct InUseMarker {
    image: StoreImage,
    orders: Sender<Order>,
}

impl InUseMarkers {
    /// Starts the thread. Without a thread no markers are written, and nothing else changes.
    #[must_use]
    pub fn start() -> Self {
        let (orders, received) = channel();
        let work = move || Table::new(Node::this()).run(&received);
        if let Err(error) = thread::Builder::new().name("in-use".to_owned()).stack_size(256 * 1024).spawn(work) {
            tracing::warn!("cannot mark images as in use: no thread: {error}");
        }
        Self { orders }
    }

    /// Marks an image as in use by a step.
    #[must_use]
    pub fn mark(&self, image: StoreImage) -> InUseMarker {
        // Without a thread there is nobody to tell.
        let _ = self.orders.send(Order::Mark(image.clone()));
        InUseMarker { image, orders: self.orders.clone() }
    }

    /// Removes stale markers of an earlier agent on this node. To be called after the recovery of leases.
    pub fn sweep(&self, stores: &[PathBuf]) {
        let _ = self.orders.send(Order::Sweep(stores.to_vec()));
    }
}

impl Drop for InUseMarker {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Unmark(self.image.clone()));
    }
}

/// The images in use.
#[derive(Debug)]
struct Table {
    /// The number of steps that use an image, and its marker if it could be written.
    images: HashMap<StoreImage, (usize, Option<Marker>)>,
    node: Node,
    directories: HashMap<PathBuf, MarkerDirectory>,
    /// The stores in which nothing can be written, as was logged.
    unwritable: HashSet<PathBuf>,
}

impl Table {
    fn new(node: Node) -> Self {
        Self { images: HashMap::new(), node, directories: HashMap::new(), unwritable: HashSet::new() }
    }

    fn run(mut self, orders: &Receiver<Order>) {
        let mut next = Instant::now() + RENEWAL_INTERVAL;
        loop {
            match orders.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(order) => self.execute(order),
                Err(RecvTimeoutError::Timeout) => {
                    self.renew();
                    next = Instant::now() + RENEWAL_INTERVAL;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // The agent ends, the steps go on: their files stay.
        self.images.into_values().filter_map(|(_, hold)| hold).for_each(std::mem::forget);
    }

    fn execute(&mut self, order: Order) {
        match order {
            Order::Mark(image) => {
                let held = self.images.contains_key(&image);
                let hold = if held { None } else { self.write(&image) };
                let place = self.images.entry(image).or_insert((0, hold));
                place.0 += 1;
            }
            Order::Unmark(image) => {
                if let Some(place) = self.images.get_mut(&image) {
                    place.0 -= 1;
                    if place.0 == 0 {
                        self.images.remove(&image);
                    }
                }
            }
            Order::Sweep(stores) => stores.iter().for_each(|store| self.sweep(store)),
        }
    }

    fn write(&mut self, image: &StoreImage) -> Option<Marker> {
        let held = self.directory(&image.store).and_then(|directory| directory.mark(&image.id, &self.node));
        match held {
            Ok(hold) => Some(hold),
            Err(error) => {
                // The store may be another one by now.
                self.directories.remove(&image.store);
                if self.unwritable.insert(image.store.clone()) {
                    let store = image.store.display();
                    tracing::info!(%store, "cannot mark images of the store as in use: {error}");
                }
                None
            }
        }
    }

    fn directory(&mut self, store: &Path) -> io::Result<MarkerDirectory> {
        if let Some(directory) = self.directories.get(store) {
            return Ok(directory.clone());
        }
        let directory = MarkerDirectory::open(&TrustedStore::open(store).map_err(io::Error::other)?)?;
        self.directories.insert(store.to_owned(), directory.clone());
        Ok(directory)
    }

    fn renew(&mut self) {
        let lost: Vec<StoreImage> = self
            .images
            .iter()
            .filter(|(_, (_, hold))| hold.as_ref().is_none_or(|hold| hold.renew().is_err()))
            .map(|(image, _)| image.clone())
            .collect();
        for image in lost {
            // The old one removes the file, if it still can.
            if let Some(place) = self.images.get_mut(&image) {
                place.1 = None;
            }
            let hold = self.write(&image);
            if let Some(place) = self.images.get_mut(&image) {
                place.1 = hold;
            }
        }
    }

    fn sweep(&mut self, store: &Path) {
        let Ok(directory) = self.directory(store) else { return };
        let held = self.images.keys().filter(|image| image.store == store);
        let kept: BTreeSet<&str> = held.map(|image| image.id.as_str()).collect();
        // A store that cannot be written has none.
        let _ = directory.remove_others(&kept, &self.node);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_image_has_a_file_from_its_first_step_to_its_last() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("parallax/holds")).unwrap();
        let files = || fs::read_dir(directory.path().join("parallax/holds")).unwrap().count();
        let image = || StoreImage { store: directory.path().to_owned(), id: "ab".repeat(32).parse().unwrap() };
        let mut table = Table::new(Node::new("n1", &[]));
        for (order, left) in [
            (Order::Mark(image()), 1),
            (Order::Mark(image()), 1),
            (Order::Unmark(image()), 1),
            (Order::Sweep(vec![directory.path().to_owned()]), 1),
            (Order::Unmark(image()), 0),
            (Order::Unmark(image()), 0),
        ] {
            table.execute(order);
            assert_eq!(files(), left);
        }
        let left = parallax_store::in_use::marker_name(&"cd".repeat(32), &Node::new("n1", &[])).unwrap();
        fs::write(directory.path().join("parallax/holds").join(left), "").unwrap();
        table.execute(Order::Sweep(vec![directory.path().to_owned()]));
        assert_eq!(files(), 0);
    }

    #[test]
    fn a_store_that_cannot_be_written_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let image = || StoreImage { store: directory.path().to_owned(), id: "ab".repeat(32).parse().unwrap() };
        let mut table = Table::new(Node::new("n1", &[]));
        table.execute(Order::Mark(image()));
        table.renew();
        table.execute(Order::Unmark(image()));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
