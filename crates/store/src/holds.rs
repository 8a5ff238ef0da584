//! What nodes hold, so that nobody removes it by mistake.
//!
//! A node's agent writes one empty file, `parallax/holds/<image id>.<node>`, when the first step there gets the image, and
//! removes it with the last. It renews the file's time every [`HEARTBEAT`], so that the file of a node that is gone is known
//! after [`STALE`]. Nothing depends on these files: nodes that may not write the store have none, and a removed image's
//! files stay whole for their grace.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::files::{StoreError, entries};
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
    fn odd_names_have_no_file() {
        assert!(file_name("ab", "node-1.site").is_some());
        for (id, node) in [("ab", "../x"), ("", "n"), ("ab", ""), ("a.b", "n"), ("ab", "n\n")] {
            assert_eq!(file_name(id, node), None);
        }
    }
}
