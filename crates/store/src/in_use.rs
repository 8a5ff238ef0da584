//! In-use markers: files by which nodes say which images they use, so that nobody removes such an image by mistake.
//!
//! A node's agent writes a small file, `parallax/holds/<image id>.<host>@<identity>`, when the first step on the node gets the
//! image, and removes it with the last one. The identity distinguishes nodes of the same name, which two clusters that share a
//! store may have. Earlier releases wrote `<image id>.<host>`: such a marker counts, and no node removes it before it is stale.
//! The agent renews the file's time at each [`RENEWAL_INTERVAL`], so that the marker of a node that is gone is known after
//! [`STALE`]. Nothing depends on markers: nodes that may not write the store have none, and the files of a removed image stay
//! intact for their retention time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parallax_format::layout::IN_USE;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, openat, openat2, unlinkat};

use crate::atomic::entries;
use crate::error::StoreError;
use crate::hash::sha256;
use crate::read::trusted::TrustedStore;
use crate::write::store::Store;

/// Interval at which an agent renews its markers.
pub const RENEWAL_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// Age at which a marker that was not renewed is stale. Clocks may differ.
pub const STALE: Duration = Duration::from_secs(60 * 60);

/// A node in the names of its files: the host's name and what tells it from another node of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node(String);

impl Node {
    /// This machine. Its identity is made of the machine id (`machine-id(5)`) and the hardware's UUID, which stay the same when it
    /// boots; nodes that start from one root file system may have the same machine id.
    #[must_use]
    pub fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let facts = ["/etc/machine-id", "/sys/class/dmi/id/product_uuid"].map(read);
        Self::new(read("/proc/sys/kernel/hostname").trim(), &facts.map(|fact| fact.trim().to_owned()))
    }

    /// A node of this name that is known by these facts.
    #[must_use]
    pub fn new(host: &str, facts: &[String]) -> Self {
        let identity = sha256(facts.join("\n").as_bytes());
        Self(format!("{host}{BEFORE_IDENTITY}{}", &identity[..IDENTITY_DIGITS]))
    }
}

/// Separator of the host's name and the identity, which no host name contains.
const BEFORE_IDENTITY: char = '@';
/// Number of digits of the identity's digest that distinguish nodes of the same name.
const IDENTITY_DIGITS: usize = 12;

/// Returns the name of a node's marker in [`IN_USE`]; `None` if the id or the node cannot be part of a file name.
#[must_use]
pub fn marker_name(image_id: &str, node: &Node) -> Option<String> {
    let good = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let Node(node) = node;
    let (host, identity) = node.split_once(BEFORE_IDENTITY)?;
    let name = format!("{image_id}.{node}");
    (good(image_id) && good(host) && good(identity) && !image_id.contains('.') && name.len() <= 255).then_some(name)
}

/// Returns the names of the nodes that use images now, by image id.
///
/// # Errors
/// [`StoreError::Io`] if the files can't be read.
pub fn read(root: &Path) -> Result<BTreeMap<String, Vec<String>>, StoreError> {
    let mut nodes_using: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in entries(&root.join(IN_USE))? {
        if let Some((id, node)) = name.split_once('.').filter(|_| is_fresh(root, &name)) {
            nodes_using.entry(id.to_owned()).or_default().push(node.to_owned());
        }
    }
    Ok(nodes_using.into_iter().map(|(id, nodes)| (id, readable(nodes))).collect())
}

/// The hosts of nodes, sorted; with its identity where two nodes have the same.
fn readable(mut nodes: Vec<String>) -> Vec<String> {
    fn host(node: &str) -> &str {
        node.split_once(BEFORE_IDENTITY).map_or(node, |(host, _)| host)
    }
    nodes.sort();
    let is_unique = |node: &&String| nodes.iter().filter(|other| host(other) == host(node)).count() == 1;
    nodes.iter().map(|node| if is_unique(&node) { host(node) } else { node }.to_owned()).collect()
}

fn is_fresh(root: &Path, name: &str) -> bool {
    let time = fs::symlink_metadata(root.join(IN_USE).join(name)).and_then(|metadata| metadata.modified());
    // One that is gone meanwhile was let go. A time to come is a clock that is ahead.
    time.is_ok_and(|time| {
        SystemTime::now().duration_since(time).is_ok_and(|age| age < STALE) || time > SystemTime::now()
    })
}

/// A node's marker for one image, removed when dropped.
#[derive(Debug)]
pub struct Marker {
    directory: MarkerDirectory,
    name: String,
    file: OwnedFd,
}

impl Marker {
    /// Renews the file's time.
    ///
    /// # Errors
    /// The errors of `pwrite(2)`.
    pub fn renew(&self) -> io::Result<()> {
        Ok(rustix::io::pwrite(&self.file, b"held\n", 0).map(drop)?)
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        // Else it is stale soon.
        let _ = unlinkat(&*self.directory.0, &self.name, AtFlags::empty());
    }
}

/// The directory of a store's markers, kept open: one path is looked up to write a marker, and one to remove it.
#[derive(Debug, Clone)]
pub struct MarkerDirectory(Arc<OwnedFd>);

impl MarkerDirectory {
    /// Opens the directory of a store.
    ///
    /// # Errors
    /// The store has no such directory.
    pub fn open(store: &TrustedStore) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        Ok(Self(Arc::new(openat2(store.root(), IN_USE, flags, Mode::empty(), resolve)?)))
    }

    /// Writes a node's marker for an image.
    ///
    /// # Errors
    /// The store may not be written, or a name can't be part of a file name.
    pub fn mark(&self, image_id: &str, node: &Node) -> io::Result<Marker> {
        let name = marker_name(image_id, node).ok_or(io::ErrorKind::InvalidInput)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&*self.0, &name, flags, Mode::from_raw_mode(0o644))?;
        let hold = Marker { directory: self.clone(), name, file };
        hold.renew()?;
        Ok(hold)
    }

    /// Removes a node's markers for all images except `kept`.
    ///
    /// # Errors
    /// The store may not be written.
    pub fn remove_others(&self, kept: &BTreeSet<&str>, node: &Node) -> io::Result<()> {
        for entry in Dir::read_from(&*self.0)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name.split_once('.').is_some_and(|(id, of)| of == node.0 && !kept.contains(id)) {
                unlinkat(&*self.0, name, AtFlags::empty())?;
            }
        }
        Ok(())
    }
}

impl Store {
    /// Returns the nodes that use an image.
    pub(crate) fn nodes_using(&self, id: &str) -> Result<Vec<String>, StoreError> {
        let names = entries(&self.root().join(IN_USE))?;
        let of_image = names.iter().filter_map(|name| Some((name, name.strip_prefix(id)?.strip_prefix('.')?)));
        let fresh = of_image.filter(|(name, _)| is_fresh(self.root(), name));
        Ok(readable(fresh.map(|(_, node)| node.to_owned()).collect()))
    }

    /// Returns the stale markers, relative to the root.
    pub(crate) fn stale_markers(&self) -> Result<Vec<String>, StoreError> {
        let names = entries(&self.root().join(IN_USE))?;
        Ok(names
            .into_iter()
            .filter(|name| !is_fresh(self.root(), name))
            .map(|name| format!("{IN_USE}/{name}"))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};

    use super::*;
    use crate::testing::{image, publish, store};
    use crate::write::remove::Target;

    fn node(host: &str) -> Node {
        Node::new(host, &[])
    }

    #[test]
    fn an_image_that_a_node_holds_goes_by_force_only() {
        let (_directory, store) = store();
        let id = publish(&store, &image("config", "app:1", &["base"]), &["base"]).unwrap().id;
        let path = store.root().join(IN_USE).join(marker_name(&id, &node("n1")).unwrap());
        fs::write(&path, "").unwrap();
        assert_eq!(read(store.root()).unwrap(), BTreeMap::from([(id.to_string(), vec!["n1".to_owned()])]));
        let target = Target::Image(id);
        let error = store.remove(&target, false).unwrap_err();
        assert!(matches!(&error, StoreError::InUse(nodes) if *nodes == ["n1"]), "{error}");
        assert!(store.image(&id).unwrap().is_some());
        assert!(store.remove(&target, true).unwrap().image.is_some());
    }

    #[test]
    fn the_file_of_a_node_that_is_gone_counts_for_nothing() {
        let (_directory, store) = store();
        let id = publish(&store, &image("config", "app:1", &["base"]), &["base"]).unwrap().id;
        let path = store.root().join(IN_USE).join(marker_name(&id, &node("n1")).unwrap());
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
        let directory = MarkerDirectory::open(&trusted).unwrap();
        let held = directory.mark("ab", &node("n1")).unwrap();
        let others = directory.mark("ab", &node("n2")).unwrap();
        held.renew().unwrap();
        assert_eq!(read(store.root()).unwrap()["ab"], ["n1", "n2"]);
        directory.remove_others(&BTreeSet::from(["ab"]), &node("n1")).unwrap();
        assert_eq!(read(store.root()).unwrap()["ab"].len(), 2);
        directory.remove_others(&BTreeSet::new(), &node("n1")).unwrap();
        assert_eq!(read(store.root()).unwrap()["ab"], ["n2"]);
        drop((held, others));
        assert!(read(store.root()).unwrap().is_empty());
        fs::remove_dir(store.root().join(IN_USE)).unwrap();
        std::os::unix::fs::symlink("/tmp", store.root().join(IN_USE)).unwrap();
        assert!(MarkerDirectory::open(&trusted).is_err());
    }

    #[test]
    fn nodes_of_the_same_name_are_told_apart() {
        let (_store, store) = store();
        let directory = MarkerDirectory::open(&TrustedStore::open(store.root()).unwrap()).unwrap();
        let [ours, theirs] = ["one", "two"].map(|id| Node::new("n1", &[id.to_owned()]));
        let held = [directory.mark("ab", &ours).unwrap(), directory.mark("ab", &theirs).unwrap()];
        // One of an earlier release.
        fs::write(store.root().join(IN_USE).join("ab.n1"), "").unwrap();
        fs::write(store.root().join(IN_USE).join("cd.n1"), "").unwrap();
        let mut all = vec!["n1".to_owned(), ours.0.clone(), theirs.0.clone()];
        all.sort();
        assert_eq!(read(store.root()).unwrap()["ab"], all);
        directory.remove_others(&BTreeSet::new(), &ours).unwrap();
        assert_eq!(read(store.root()).unwrap()["ab"], ["n1".to_owned(), theirs.0.clone()]);
        assert_eq!(read(store.root()).unwrap()["cd"], ["n1"]);
        drop(held);
    }

    #[test]
    fn this_node_is_always_the_same() {
        assert_eq!(Node::this(), Node::this());
        assert_ne!(Node::this(), Node::new("n1", &["elsewhere".to_owned()]));
    }

    #[test]
    fn odd_names_have_no_file() {
        assert!(marker_name("ab", &node("node-1.site")).is_some());
        for (id, host) in [("ab", "../x"), ("", "n"), ("ab", ""), ("a.b", "n"), ("ab", "n\n"), ("ab", "n@m")] {
            assert_eq!(marker_name(id, &node(host)), None);
        }
    }
}
