//! Tar-split data: what Podman needs besides the files of a layer to give its archive back with the digest that the image names.
//!
//! It lies beside the SquashFS file, and a step store leads Podman to it. Podman reads the files themselves in the layer's
//! `diff` directory, which is empty unless the agent has mounted the layer there. For Podman on the store itself there is
//! therefore other data under the name where it looks, `overlay-layers/<layer id>.tar-split.gz`: a single file whose name
//! says what to do, so that `podman save` and `podman push` stop at once and show it.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use parallax_format::digest::LayerId;
use parallax_format::layer_file::{LayerFile, TarSplit};
use parallax_format::layout::{NO_FILES, podmans_tar_split};

use crate::atomic::{ensure_link, move_into_place, replace_file};
use crate::error::{IoContext as _, StoreError};
use crate::write::store::Store;

/// The name that Podman's error message ends with; at most 255 bytes, and without a slash.
const ADVICE: &str = "save and push images of this store inside a job step with --parallax-mode=podman: only there Podman can \
                      read the files of their layers";

/// The same for an image that lies unpacked elsewhere: nobody knows the archives of its layers.
const ADVICE_UNPACKED: &str = "this image lies unpacked in a directory, and its layers' archives are not known: copy it from its \
                               registry, or put it into a store with parallax migrate";

impl Store {
    /// Moves finished tar-split data into the store, unless it is there.
    pub(crate) fn add_tar_split(&self, squashfs: &Path, layer: &LayerFile) -> Result<(), StoreError> {
        let Some(TarSplit { size, .. }) = &layer.tar_split else { return Ok(()) };
        let (from, path) = (LayerFile::tar_split_beside(squashfs), LayerFile::tar_split_path(&layer.diff_id));
        let path = self.root().join(path);
        if fs::metadata(&path).is_ok_and(|there| there.len() == *size) {
            return Ok(());
        }
        fs::set_permissions(&from, Permissions::from_mode(0o644)).context("set the mode of", &from)?;
        move_into_place(&from, &path)
    }

    /// Makes Podman print advice when it searches a layer's data in the store itself.
    pub(crate) fn advise(&self, layer_id: &LayerId) -> Result<(), StoreError> {
        let refusal = self.root().join(NO_FILES);
        if !refusal.exists() {
            let written = refusal_data(ADVICE).context("write", &refusal)?;
            replace_file(&self.temporary(), &refusal, &written)?;
        }
        ensure_link(&self.root().join(podmans_tar_split(layer_id)), &format!("../{NO_FILES}"))
    }

    /// Makes Podman print advice when it searches the data of an unpacked image's layer, here and in step stores.
    pub(crate) fn advise_unpacked(&self, layer_id: &LayerId) -> Result<(), StoreError> {
        let path = self.root().join(podmans_tar_split(layer_id));
        let data = refusal_data(ADVICE_UNPACKED).context("write", &path)?;
        replace_file(&self.temporary(), &path, &data)
    }
}

fn refusal_data(advice: &str) -> std::io::Result<Vec<u8>> {
    // A file of one byte, so that its content is asked for; the checksum is never looked at.
    let entry = serde_json::json!({"type": 1, "name": advice, "size": 1, "payload": "AAAAAAAAAAA=", "position": 0});
    let mut data = GzEncoder::new(Vec::new(), Compression::default());
    writeln!(data, "{entry}")?;
    data.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn the_advice_is_the_name_of_a_file() {
        for advice in [ADVICE, ADVICE_UNPACKED] {
            let mut text = String::new();
            flate2::read::GzDecoder::new(&refusal_data(advice).unwrap()[..]).read_to_string(&mut text).unwrap();
            let entry: serde_json::Value = serde_json::from_str(&text).unwrap();
            let name = entry["name"].as_str().unwrap();
            assert!(name.len() <= 255 && !name.contains(['/', '\n']) && !name.contains("  "), "{name}");
            assert_eq!((&entry["type"], &entry["size"]), (&1.into(), &1.into()));
        }
    }
}
