//! Tells those who remove images which ones this node holds, by files in the store.
//!
//! All of it is done by one thread that nobody waits for: a step neither starts nor ends later because the store's file system
//! is slow, and where root may not write the store (read-only, or NFS with root_squash) nothing is written, which is logged
//! once. An image has one file on this node, whatever the number of steps: it is written with the first and removed with
//! the last.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Instant;

use parallax_store::holds::{HEARTBEAT, Hold, HoldsDirectory, Node};
use parallax_store::open::TrustedStore;

use crate::journal::HeldImage;

/// What the thread is told.
#[derive(Debug)]
enum Order {
    Hold(HeldImage),
    LetGo(HeldImage),
    /// What an earlier agent left in these stores, and nobody holds, is to go.
    Tidy(Vec<PathBuf>),
}

/// The way to the thread.
#[derive(Debug)]
pub struct InUseMarkers {
    orders: Sender<Order>,
}

/// One step's hold of an image. It ends with this value.
#[derive(Debug)]
pub struct InUseMarker {
    image: HeldImage,
    orders: Sender<Order>,
}

impl InUseMarkers {
    /// Starts the thread. Without one nothing is told, and nothing else changes.
    #[must_use]
    pub fn start() -> Self {
        let (orders, received) = channel();
        let work = move || Table::new(Node::this()).follow(&received);
        if let Err(error) = thread::Builder::new().name("holds".to_owned()).stack_size(256 * 1024).spawn(work) {
            tracing::warn!("stores are not told what this node holds: no thread: {error}");
        }
        Self { orders }
    }

    /// Holds an image for a step.
    #[must_use]
    pub fn hold(&self, image: HeldImage) -> InUseMarker {
        // Without a thread there is nobody to tell.
        let _ = self.orders.send(Order::Hold(image.clone()));
        InUseMarker { image, orders: self.orders.clone() }
    }

    /// Removes what an earlier agent on this node left in the stores. To be called when the leases that go on hold theirs.
    pub fn tidy(&self, stores: &[PathBuf]) {
        let _ = self.orders.send(Order::Tidy(stores.to_vec()));
    }
}

impl Drop for InUseMarker {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::LetGo(self.image.clone()));
    }
}

/// What is held.
#[derive(Debug)]
struct Table {
    /// How many steps hold an image, and its file if there could be one.
    images: HashMap<HeldImage, (usize, Option<Hold>)>,
    node: Node,
    directories: HashMap<PathBuf, HoldsDirectory>,
    /// The stores in which nothing can be written, as was logged.
    silent: HashSet<PathBuf>,
}

impl Table {
    fn new(node: Node) -> Self {
        Self { images: HashMap::new(), node, directories: HashMap::new(), silent: HashSet::new() }
    }

    fn follow(mut self, orders: &Receiver<Order>) {
        let mut next = Instant::now() + HEARTBEAT;
        loop {
            match orders.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(order) => self.carry_out(order),
                Err(RecvTimeoutError::Timeout) => {
                    self.renew();
                    next = Instant::now() + HEARTBEAT;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // The agent ends, the steps go on: their files stay.
        self.images.into_values().filter_map(|(_, hold)| hold).for_each(std::mem::forget);
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Hold(image) => {
                let held = self.images.contains_key(&image);
                let hold = if held { None } else { self.write(&image) };
                let place = self.images.entry(image).or_insert((0, hold));
                place.0 += 1;
            }
            Order::LetGo(image) => {
                if let Some(place) = self.images.get_mut(&image) {
                    place.0 -= 1;
                    if place.0 == 0 {
                        self.images.remove(&image);
                    }
                }
            }
            Order::Tidy(stores) => stores.iter().for_each(|store| self.tidy(store)),
        }
    }

    fn write(&mut self, image: &HeldImage) -> Option<Hold> {
        let held = self.directory(&image.store).and_then(|directory| directory.hold(&image.id, &self.node));
        match held {
            Ok(hold) => Some(hold),
            Err(error) => {
                // The store may be another one by now.
                self.directories.remove(&image.store);
                if self.silent.insert(image.store.clone()) {
                    let store = image.store.display();
                    tracing::info!(%store, "the store is not told what this node holds: {error}");
                }
                None
            }
        }
    }

    fn directory(&mut self, store: &Path) -> io::Result<HoldsDirectory> {
        if let Some(directory) = self.directories.get(store) {
            return Ok(directory.clone());
        }
        let directory = HoldsDirectory::open(&TrustedStore::open(store).map_err(io::Error::other)?)?;
        self.directories.insert(store.to_owned(), directory.clone());
        Ok(directory)
    }

    fn renew(&mut self) {
        let lost: Vec<HeldImage> = self
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

    fn tidy(&mut self, store: &Path) {
        let Ok(directory) = self.directory(store) else { return };
        let held = self.images.keys().filter(|image| image.store == store);
        let kept: BTreeSet<&str> = held.map(|image| image.id.as_str()).collect();
        // A store that can't be written has none.
        let _ = directory.let_go_but(&kept, &self.node);
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
        let image = || HeldImage { store: directory.path().to_owned(), id: "ab".repeat(32) };
        let mut table = Table::new(Node::new("n1", &[]));
        for (order, left) in [
            (Order::Hold(image()), 1),
            (Order::Hold(image()), 1),
            (Order::LetGo(image()), 1),
            (Order::Tidy(vec![directory.path().to_owned()]), 1),
            (Order::LetGo(image()), 0),
            (Order::LetGo(image()), 0),
        ] {
            table.carry_out(order);
            assert_eq!(files(), left);
        }
        let left = parallax_store::holds::file_name(&"cd".repeat(32), &Node::new("n1", &[])).unwrap();
        fs::write(directory.path().join("parallax/holds").join(left), "").unwrap();
        table.carry_out(Order::Tidy(vec![directory.path().to_owned()]));
        assert_eq!(files(), 0);
    }

    #[test]
    fn a_store_that_cannot_be_written_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let image = || HeldImage { store: directory.path().to_owned(), id: "ab".repeat(32) };
        let mut table = Table::new(Node::new("n1", &[]));
        table.carry_out(Order::Hold(image()));
        table.renew();
        table.carry_out(Order::LetGo(image()));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
