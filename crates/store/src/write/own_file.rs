//! SquashFS files that one of Podman's layers has for itself.
//!
//! A SquashFS file is named by the layer's diffID and depends on nothing else, so that all images with the layer share it. Where
//! the layers below decide how the layer must look itself (see [`crate::Shape`]), that file would be wrong, and the layer gets
//! one for this chain of layers: `overlay/l/<LINK>.squash`, with its description in the layer's directory. Records have
//! `sidecar` for it, which earlier versions understand too.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use parallax_format::digest::LayerId;
use parallax_format::layer_file::LayerFile;
use parallax_format::layout;

use crate::atomic::{move_into_place, read_if_there, replace_file};
use crate::error::{IoContext as _, StoreError};
use crate::hash::link_of_layer;
use crate::write::store::Store;

/// Finished SquashFS files that are for one of Podman's layers alone, by the layer's id.
pub type OwnFiles = BTreeMap<LayerId, (PathBuf, LayerFile)>;

impl Store {
    /// The description of the SquashFS file that Podman's layer of this id has for itself, if it has one.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the store cannot be read.
    pub fn own_file(&self, layer_id: &LayerId) -> Result<Option<LayerFile>, StoreError> {
        let path = self.root().join(LayerFile::own_description_path(layer_id));
        let Some(bytes) = read_if_there(&path)? else { return Ok(None) };
        let file = self.root().join(link_of_layer(layer_id).sidecar());
        let metadata = match fs::symlink_metadata(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let [index, totals] =
                    [layout::CHUNK_INDEX, layout::CHUNK_TOTALS].map(|kind| layout::own_file(layer_id, kind));
                let only_chunks = self.has_only_chunks(&link_of_layer(layer_id).sidecar(), &index, &totals)?;
                return Ok(serde_json::from_slice(&bytes).ok().filter(|_| only_chunks));
            }
            metadata => metadata.context("read", &file)?,
        };
        let described: Option<LayerFile> = serde_json::from_slice(&bytes).ok();
        Ok(described.filter(|described| metadata.is_file() && described.squashfs_size == metadata.len()))
    }

    /// Gives a layer, whose directory is there, a finished SquashFS file for itself.
    pub(crate) fn add_own_file(
        &self,
        layer_id: &LayerId,
        squashfs: &Path,
        layer: &LayerFile,
    ) -> Result<(), StoreError> {
        fs::set_permissions(squashfs, Permissions::from_mode(0o644)).context("set the mode of", squashfs)?;
        let description = serde_json::to_vec(layer).map_err(|error| self.corrupt("the layer", &error))?;
        let path = self.root().join(LayerFile::own_description_path(layer_id));
        replace_file(&self.temporary(), &path, &description)?;
        // What others had under this path is a link to the file that they share.
        move_into_place(squashfs, &self.root().join(link_of_layer(layer_id).sidecar()))
    }
}

#[cfg(test)]
mod tests {
    use parallax_format::ImageRef;

    use super::*;
    use crate::Verifier;
    use crate::hash::{chain_ids, sha256};
    use crate::read::trusted::TrustedStore;
    use crate::testing::{image, publish, squashfs, store};
    use crate::write::remove::{Collection, Target};

    /// Publishes an image whose top layer has a file for itself.
    fn publish_own(store: &Store, name: &str, layers: &[&str]) -> parallax_format::record::ImageRecord {
        let new = image(name, name, layers);
        let work = store.work_directory().unwrap();
        let id = chain_ids(new.diff_ids.iter().copied()).pop().unwrap();
        let (file, bytes) = (work.path().join(id.as_str()), squashfs("for itself"));
        fs::write(&file, &bytes).unwrap();
        let described = LayerFile::new(*new.diff_ids.last().unwrap(), 1000, bytes.len() as u64, sha256(&bytes));
        store.publish(&new, &[], &OwnFiles::from([(id, (file, described))])).unwrap()
    }

    #[test]
    fn one_chain_has_a_file_for_itself_and_others_share_theirs() {
        let (_directory, store) = store();
        let shared = publish(&store, &image("one", "one:1", &["base", "top"]), &["base", "top"]).unwrap();
        publish(&store, &image("base", "base:1", &["other base"]), &["other base"]).unwrap();
        let own = publish_own(&store, "own:1", &["other base", "top"]);
        assert_eq!(shared.layers[1].diff_id, own.layers[1].diff_id);
        assert_eq!(own.layers.iter().map(|layer| layer.sidecar).collect::<Vec<_>>(), [false, true]);
        assert_ne!(own.layers[1].file_path(), shared.layers[1].file_path());
        // As the agent opens it.
        let trusted = TrustedStore::open(store.root()).unwrap();
        let found = trusted.resolve(&ImageRef::parse("own:1").unwrap()).unwrap().unwrap();
        trusted.open_layer(&found.layers[1]).unwrap();
        // Another image with the same chain takes the file that is there.
        let more = image("more", "more:1", &["other base", "top"]);
        let more = publish(&store, &more, &["other base", "top"]).unwrap();
        assert_eq!(more.layers, own.layers);
        let mut verifier = Verifier::new(&store).unwrap();
        for id in [&shared.id, &own.id, &more.id] {
            verifier.image(id).unwrap();
        }
        assert_eq!(verifier.problems(), []);
        assert_eq!(store.collect(Collection::default()).unwrap().garbage, []);
        for id in [own.id, more.id] {
            assert!(store.own_file(&own.layers[1].id).unwrap().is_some());
            store.remove(&Target::Image(id), false).unwrap();
        }
        assert_eq!(store.own_file(&own.layers[1].id).unwrap(), None);
        assert!(!store.root().join(own.layers[1].file_path()).exists());
        assert!(store.image(&shared.id).unwrap().is_some());
    }
}
