//! What nodes hold, so that nobody removes it by mistake.
//!
//! A node's agent writes one small file, `parallax/holds/<image id>.<node>`, when the first step there gets the image, and
//! removes it with the last. It renews the file's time every [`HEARTBEAT`], so that the file of a node that is gone is known
//! after [`STALE`]. Nothing depends on these files: nodes that may not write the store have none, and a removed image's
//! files stay whole for their grace.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, openat, openat2, unlinkat};

use crate::files::{StoreError, entries};
use crate::open::TrustedStore;
use crate::writer::Store;

/// Where the files lie, relative to the store.
pub const HOLDS: &str = "parallax/holds";
/// How often an agent renews its files' times.
pub const HEARTBEAT: Duration = Duration::from_secs(10 * 60);
/// When a file that was not renewed counts for nothing. Clocks may differ.
pub const STALE: Duration = Duration::from_secs(60 * 60);

/// The name of a node's file in [`HOLDS`]; `None` if one of the two can't be part of a file name.
#[must_use]
pub fn file_name(image_id: &str, node: &str) -> Option<String> {
    let good = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let name = format!("{image_id}.{node}");
    (good(image_id) && good(node) && !image_id.contains('.') && name.len() <= 255).then_some(name)
}

/// The nodes that hold images now, by image id.
///
/// # Errors
/// [`StoreError::Io`] if the files can't be read.
pub fn read(root: &Path) -> Result<BTreeMap<String, Vec<String>>, StoreError> {
    let mut holders: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in entries(&root.join(HOLDS))? {
        if let Some((id, node)) = name.split_once('.').filter(|_| is_fresh(root, &name)) {
            holders.entry(id.to_owned()).or_default().push(node.to_owned());
        }
    }
    Ok(holders)
}

fn is_fresh(root: &Path, name: &str) -> bool {
    let time = fs::symlink_metadata(root.join(HOLDS).join(name)).and_then(|metadata| metadata.modified());
    // One that is gone meanwhile was let go. A time to come is a clock that is ahead.
    time.is_ok_and(|time| {
        SystemTime::now().duration_since(time).is_ok_and(|age| age < STALE) || time > SystemTime::now()
    })
}

/// A node's file for one image. It goes with this value.
#[derive(Debug)]
pub struct Hold {
    directory: HoldsDirectory,
    name: String,
    file: OwnedFd,
}

impl Hold {
    /// Renews the file's time.
    ///
    /// # Errors
    /// Those of `pwrite(2)`.
    pub fn renew(&self) -> io::Result<()> {
        Ok(rustix::io::pwrite(&self.file, b"held\n", 0).map(drop)?)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Else it is stale soon.
        let _ = unlinkat(&*self.directory.0, &self.name, AtFlags::empty());
    }
}

/// The place for such files in a store, held open: one path is looked up to write a file, and one to remove it.
#[derive(Debug, Clone)]
pub struct HoldsDirectory(Arc<OwnedFd>);

impl HoldsDirectory {
    /// Opens a store's.
    ///
    /// # Errors
    /// The store has none.
    pub fn open(store: &TrustedStore) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        Ok(Self(Arc::new(openat2(store.root(), HOLDS, flags, Mode::empty(), resolve)?)))
    }

    /// Writes the file of a node for an image.
    ///
    /// # Errors
    /// The store may not be written, or a name can't be part of a file name.
    pub fn hold(&self, image_id: &str, node: &str) -> io::Result<Hold> {
        let name = file_name(image_id, node).ok_or(io::ErrorKind::InvalidInput)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&*self.0, &name, flags, Mode::from_raw_mode(0o644))?;
        let hold = Hold { directory: self.clone(), name, file };
        hold.renew()?;
        Ok(hold)
    }

    /// Removes the files of a node for all images but these.
    ///
    /// # Errors
    /// The store may not be written.
    pub fn let_go_but(&self, kept: &BTreeSet<&str>, node: &str) -> io::Result<()> {
        for entry in Dir::read_from(&*self.0)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name.split_once('.').is_some_and(|(id, of)| of == node && !kept.contains(id)) {
                unlinkat(&*self.0, name, AtFlags::empty())?;
            }
        }
        Ok(())
    }
}

impl Store {
    /// The nodes that hold an image.
    pub(crate) fn holders(&self, id: &str) -> Result<Vec<String>, StoreError> {
        let names = entries(&self.root().join(HOLDS))?;
        let of_image = names.iter().filter_map(|name| Some((name, name.strip_prefix(id)?.strip_prefix('.')?)));
        Ok(of_image.filter(|(name, _)| is_fresh(self.root(), name)).map(|(_, node)| node.to_owned()).collect())
    }

    /// The files of nodes that are gone, relative to the root.
    pub(crate) fn stale_holds(&self) -> Result<Vec<String>, StoreError> {
        let names = entries(&self.root().join(HOLDS))?;
        Ok(names
            .into_iter()
            .filter(|name| !is_fresh(self.root(), name))
            .map(|name| format!("{HOLDS}/{name}"))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};

    use super::*;
    use crate::remove::Target;
    use crate::testing::{image, publish, store};

    #[test]
    fn an_image_that_a_node_holds_goes_by_force_only() {
        let (_directory, store) = store();
        let id = publish(&store, &image("config", "app:1", &["base"]), &["base"]).unwrap().id;
        let path = store.root().join(HOLDS).join(file_name(&id, "n1").unwrap());
        fs::write(&path, "").unwrap();
        assert_eq!(read(store.root()).unwrap(), BTreeMap::from([(id.clone(), vec!["n1".to_owned()])]));
        let target = Target::Image(id.clone());
        let error = store.remove(&target, false).unwrap_err();
        assert!(matches!(&error, StoreError::InUse(nodes) if *nodes == ["n1"]), "{error}");
        assert!(store.image(&id).unwrap().is_some());
        assert!(store.remove(&target, true).unwrap().image.is_some());
    }

    #[test]
    fn the_file_of_a_node_that_is_gone_counts_for_nothing() {
        let (_directory, store) = store();
        let id = publish(&store, &image("config", "app:1", &["base"]), &["base"]).unwrap().id;
        let path = store.root().join(HOLDS).join(file_name(&id, "n1").unwrap());
        let old = SystemTime::now() - STALE - Duration::from_secs(1);
        File::create(&path).unwrap().set_times(FileTimes::new().set_modified(old)).unwrap();
        assert!(read(store.root()).unwrap().is_empty());
        let collected = store.collect(crate::Collection::default()).unwrap();
        assert_eq!(collected.garbage.len(), 1);
        assert!(!path.exists());
        assert!(store.remove(&Target::Image(id), false).unwrap().image.is_some());
    }

    #[test]
    fn a_nodes_file_goes_when_it_lets_go_or_starts_anew() {
        let (_store, store) = store();
        let trusted = TrustedStore::open(store.root()).unwrap();
        let directory = HoldsDirectory::open(&trusted).unwrap();
        let held = directory.hold("ab", "n1").unwrap();
        let others = directory.hold("ab", "n2").unwrap();
        held.renew().unwrap();
        assert_eq!(read(store.root()).unwrap()["ab"], ["n1", "n2"]);
        directory.let_go_but(&BTreeSet::from(["ab"]), "n1").unwrap();
        assert_eq!(read(store.root()).unwrap()["ab"].len(), 2);
        directory.let_go_but(&BTreeSet::new(), "n1").unwrap();
        assert_eq!(read(store.root()).unwrap()["ab"], ["n2"]);
        drop((held, others));
        assert!(read(store.root()).unwrap().is_empty());
        fs::remove_dir(store.root().join(HOLDS)).unwrap();
        std::os::unix::fs::symlink("/tmp", store.root().join(HOLDS)).unwrap();
        assert!(HoldsDirectory::open(&trusted).is_err());
    }

    #[test]
    fn odd_names_have_no_file() {
        assert!(file_name("ab", "node-1.site").is_some());
        for (id, node) in [("ab", "../x"), ("", "n"), ("ab", ""), ("a.b", "n"), ("ab", "n\n")] {
            assert_eq!(file_name(id, node), None);
        }
    }
}
