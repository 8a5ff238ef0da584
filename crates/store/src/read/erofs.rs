//! EROFS files of layers whose records have SquashFS files.
//!
//! Records of such images are those that every release reads. What a node needs to know of the second file is in the
//! description beside it, which is read under the same rules as a record.

use std::fs::File;
use std::io;

use parallax_format::LayerFormat;
use parallax_format::layer_file::LayerFile;
use parallax_format::record::{LayerRecord, MAX_BYTES};

use crate::read::trusted::{OpenError, TrustedStore};

impl TrustedStore {
    /// Returns the EROFS file of a layer, open for reading, with the layer as the file's description has it. `None` if the layer has no such
    /// file.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_erofs(&self, layer: &LayerRecord) -> Result<Option<(LayerRecord, File)>, OpenError> {
        if layer.sidecar || layer.tree.is_some() {
            return Ok(None);
        }
        if layer.format == LayerFormat::Erofs {
            return self.open_layer(layer).map(|file| Some((layer.clone(), file)));
        }
        let path = LayerFile::description_path_in(&layer.diff_id, LayerFormat::Erofs);
        let Some(bytes) = self.read(&path, MAX_BYTES)? else { return Ok(None) };
        let described: LayerFile =
            serde_json::from_slice(&bytes).map_err(|error| self.read_failed(&path, io::Error::other(error)))?;
        if described.diff_id != layer.diff_id || described.format != LayerFormat::Erofs {
            return Err(self.read_failed(&path, io::Error::other("it describes another file")));
        }
        let layer = layer.with_file(&described);
        // A file without a description is being removed, one that is not there yet is being added.
        if !self.has(&layer.file_path()) {
            return Ok(None);
        }
        self.open_layer(&layer).map(|file| Some((layer, file)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use parallax_format::ImageRef;
    use parallax_format::record::ImageRecord;

    use super::*;
    use crate::testing::{erofs, image, publish, publish_files, store};
    use crate::write::remove::{Collection, Target};
    use crate::{Store, Verifier};

    fn opened(store: &Store, name: &str) -> Vec<Option<LayerFormat>> {
        let trusted = TrustedStore::open(store.root()).unwrap();
        let record = trusted.resolve(&ImageRef::parse(name).unwrap()).unwrap().unwrap();
        let erofs = |layer| trusted.open_erofs(layer).unwrap().map(|(layer, _)| layer.format);
        record.layers.iter().map(erofs).collect()
    }

    fn problems(store: &Store, image: &parallax_format::digest::ImageId) -> Vec<String> {
        let mut verifier = Verifier::new(store).unwrap();
        verifier.image(image).unwrap();
        verifier.problems().iter().map(|problem| format!("{} {}", problem.path, problem.what)).collect()
    }

    #[test]
    fn an_image_in_one_format_gets_the_other() {
        let (_directory, store) = store();
        let both = publish(&store, &image("both", "both:1", &["base", "top"]), &["base", "top"]).unwrap();
        assert_eq!(opened(&store, "both:1"), [None, None]);
        let work = store.work_directory().unwrap();
        let added =
            publish_files(&store, &image("both", "both:1", &["base", "top"]), &erofs(work.path(), &["base", "top"]));
        // By the version nodes know that it is worth a look.
        assert_eq!((both.version, added.unwrap()), (1, ImageRecord { version: 2, ..both.clone() }));
        assert_eq!(opened(&store, "both:1"), [Some(LayerFormat::Erofs); 2]);
        let link = |index: usize, end: &str| {
            store.root().join(format!("overlay/l/{}.{end}", both.layers[index].link.as_str()))
        };
        assert!(link(0, "squash").is_file() && link(1, "erofs").is_file());

        // One that is in EROFS alone says so, until it is there in SquashFS too.
        let new = image("one", "one:1", &["base", "own"]);
        let one = publish_files(&store, &new, &erofs(work.path(), &["own"])).unwrap();
        let formats = |record: &ImageRecord| record.layers.iter().map(|layer| layer.format).collect::<Vec<_>>();
        assert_eq!((one.version, formats(&one)), (2, vec![LayerFormat::Squashfs, LayerFormat::Erofs]));
        let now = publish(&store, &new, &["own"]).unwrap();
        assert_eq!((now.version, formats(&now)), (2, vec![LayerFormat::Squashfs; 2]));
        assert_eq!((problems(&store, &both.id), problems(&store, &one.id)), (Vec::new(), Vec::new()));
        assert_eq!(store.collect(Collection::default()).unwrap().garbage, []);

        fs::write(store.root().join(LayerFile::path_in(&both.layers[1].diff_id, LayerFormat::Erofs)), "x").unwrap();
        assert!(
            problems(&store, &both.id)[0].contains(".erofs.json does not describe"),
            "{:?}",
            problems(&store, &both.id)
        );
        for id in [both.id, one.id] {
            store.remove(&Target::Image(id), false).unwrap();
        }
        let left = |directory: &str| fs::read_dir(store.root().join(directory)).unwrap().count();
        assert_eq!((left("parallax/layers"), left("overlay/l"), left("parallax/removed")), (0, 0, 6));
    }
}
