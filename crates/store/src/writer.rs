//! Adds images to a store.
//!
//! Everything becomes visible in an order in which no reader, Podman or ours, can see half an image: SquashFS files,
//! layer directories, the list of layers, the list of images, the record, the index. Each step is one `rename` of
//! something that is durable already. A writer that is killed leaves a store that works, and at most files that nothing
//! refers to.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use parallax_names::{ImageName, IndexPath};
use tempfile::TempDir;

use crate::containers_storage::{BigData, IMAGES_JSON, Image, LAYERS_JSON, LINKS, Layer, Link, chain_ids, lower_file};
use crate::files::{
    IoContext as _, StoreError, ensure_directory, read_if_there, replace_file, replace_link, sync_parent,
};
use crate::layer_file::LayerFile;
use crate::lists::{ImageList, LayerList};
use crate::lock::{self, WriteLock};
use crate::record::{ImageRecord, LayerRecord, VERSION};

/// Where unfinished files lie, relative to the store.
const TEMPORARY: &str = "parallax/tmp";
/// The directories of a store, parents first.
const DIRECTORIES: [&str; 10] = [
    "overlay",
    LINKS,
    "overlay-images",
    "overlay-layers",
    "parallax",
    "parallax/layers",
    "parallax/images",
    "parallax/names",
    "parallax/digests",
    TEMPORARY,
];

/// A store that images can be added to.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// An image whose layers are all in the store.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// The SHA-256 of `config`, 64 hexadecimal digits.
    pub id: String,
    /// The manifest's digest, `sha256:…`.
    pub digest: String,
    /// The digest of the multi-platform index it was chosen from, 64 hexadecimal digits.
    pub index_digest: Option<String>,
    /// The name to store it under.
    pub name: ImageName,
    /// When it was built, RFC 3339.
    pub created: String,
    /// The manifest, byte for byte.
    pub manifest: String,
    /// The configuration, byte for byte.
    pub config: String,
    /// Its layers, base first.
    pub layers: Vec<LayerFile>,
}

/// A directory for a writer's unfinished files. It is removed when dropped.
#[derive(Debug)]
pub struct WorkDirectory(TempDir);

impl WorkDirectory {
    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Store {
    /// Opens the store at `root` for writing, and makes what is missing of it.
    ///
    /// # Errors
    /// [`StoreError`] names the directory or file that could not be made.
    pub fn create_or_open(root: &Path) -> Result<Self, StoreError> {
        if !root.is_dir() {
            fs::create_dir_all(root).context("create the store", root)?;
            fs::set_permissions(root, Permissions::from_mode(0o755)).context("set the mode of", root)?;
        }
        let root = root.canonicalize().context("open the store", root)?;
        for name in DIRECTORIES {
            ensure_directory(&root.join(name))?;
        }
        lock::create(&root)?;
        Ok(Self { root })
    }

    /// The store's root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A fresh directory for unfinished files, on the store's file system.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the store cannot be written.
    pub fn work_directory(&self) -> Result<WorkDirectory, StoreError> {
        let temporary = self.temporary();
        tempfile::Builder::new()
            .prefix("work-")
            .tempdir_in(&temporary)
            .map(WorkDirectory)
            .context("create files in", &temporary)
    }

    /// The layer with this diffID, if the store has it.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the store cannot be read.
    pub fn layer(&self, diff_id: &str) -> Result<Option<LayerFile>, StoreError> {
        let squashfs = self.root.join(LayerFile::squashfs_path(diff_id));
        let size = match fs::metadata(&squashfs) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context("read", &squashfs),
        };
        let Some(bytes) = read_if_there(&self.root.join(LayerFile::description_path(diff_id)))? else {
            return Ok(None);
        };
        // A damaged description is as good as none: the layer is converted again.
        let file: Option<LayerFile> = serde_json::from_slice(&bytes).ok();
        Ok(file.filter(|file| file.diff_id == diff_id && file.squashfs_size == size))
    }

    /// Moves a finished SquashFS file, durable already, into the store.
    ///
    /// Returns the layer the store has then: the one given, or that of another writer who was faster.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the store is as before then.
    pub fn add_layer(&self, squashfs: &Path, layer: LayerFile) -> Result<LayerFile, StoreError> {
        // File and description belong together, so both are written under the lock.
        let _lock = WriteLock::take(&self.root)?;
        if let Some(there) = self.layer(&layer.diff_id)? {
            return Ok(there);
        }
        fs::set_permissions(squashfs, Permissions::from_mode(0o644)).context("set the mode of", squashfs)?;
        let description = serde_json::to_vec(&layer).map_err(|error| self.damaged("the layer", &error))?;
        replace_file(&self.temporary(), &self.root.join(LayerFile::description_path(&layer.diff_id)), &description)?;
        let place = self.root.join(LayerFile::squashfs_path(&layer.diff_id));
        fs::rename(squashfs, &place).context("write", &place)?;
        sync_parent(&place)?;
        Ok(layer)
    }

    /// The record of the image with this id, if the store has the image whole.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the store cannot be read.
    pub fn image(&self, id: &str) -> Result<Option<ImageRecord>, StoreError> {
        let Some(bytes) = read_if_there(&self.root.join(IndexPath::record(id)))? else { return Ok(None) };
        let Ok(record) = ImageRecord::parse(&bytes) else { return Ok(None) };
        let whole = record.layers.iter().all(|layer| self.root.join(layer.squashfs_path()).is_file());
        Ok(whole.then_some(record))
    }

    /// The id of the image a name stands for.
    #[must_use]
    pub fn id_of_name(&self, name: &ImageName) -> Option<String> {
        self.id_at(&IndexPath::name(name)?)
    }

    /// The id of the image with a manifest or index of this digest, given as 64 hexadecimal digits.
    #[must_use]
    pub fn id_of_digest(&self, hex: &str) -> Option<String> {
        self.id_at(&IndexPath::digest(hex))
    }

    fn id_at(&self, entry: &str) -> Option<String> {
        let target = fs::read_link(self.root.join(entry)).ok()?;
        IndexPath::id_from_link(target.to_str()?).map(str::to_owned)
    }

    /// Makes an image visible, or gives one that is there another name. If the name stood for another image, that one
    /// keeps its other names.
    ///
    /// # Errors
    /// [`StoreError`]; readers see the image whole or not at all.
    pub fn publish(&self, image: &NewImage) -> Result<ImageRecord, StoreError> {
        let name_entry = IndexPath::name(&image.name).ok_or_else(|| StoreError::NameTooLong(image.name.to_string()))?;
        let work = self.work_directory()?;
        let lock = WriteLock::take(&self.root)?;
        let mut layers = LayerList::read(&self.root.join(LAYERS_JSON))?;
        let mut images = ImageList::read(&self.root.join(IMAGES_JSON))?;

        let chain = self.publish_layers(image, &mut layers)?;
        if layers.changed() {
            replace_file(work.path(), &self.root.join(LAYERS_JSON), &layers.to_bytes())?;
            lock.layers_changed().context("write the lock of", &self.root.join(LAYERS_JSON))?;
        }
        self.publish_big_data(image, &mut images, &chain)?;
        let losers = images.move_name(&image.name.to_string(), &image.id);
        if images.changed() {
            replace_file(work.path(), &self.root.join(IMAGES_JSON), &images.to_bytes())?;
            lock.images_changed().context("write the lock of", &self.root.join(IMAGES_JSON))?;
        }
        // The image was there already with a manifest of its own, which stays: compressed otherwise, say.
        let mut record = self.image(&image.id)?.unwrap_or_else(|| new_record(image, chain));
        record.names = images.names(&image.id);
        self.write_record(&record)?;
        let scratch = work.path().join("link");
        let target = IndexPath::link_target(&image.id);
        let digest = image.digest.trim_start_matches("sha256:");
        for digest in [Some(digest), image.index_digest.as_deref()].into_iter().flatten() {
            replace_link(&scratch, &self.root.join(IndexPath::digest(digest)), &target)?;
        }
        replace_link(&scratch, &self.root.join(name_entry), &target)?;
        for loser in losers {
            if let Some(mut record) = self.image(&loser)? {
                record.names = images.names(&loser);
                self.write_record(&record)?;
            }
        }
        Ok(record)
    }

    /// The layers' directories, and their entries in the list.
    fn publish_layers(&self, image: &NewImage, list: &mut LayerList) -> Result<Vec<LayerRecord>, StoreError> {
        let ids = chain_ids(image.layers.iter().map(|layer| layer.diff_id.as_str()));
        let mut chain: Vec<LayerRecord> = Vec::with_capacity(ids.len());
        for (id, file) in ids.into_iter().zip(&image.layers) {
            let link = self.layer_directory(&id, file, &chain)?;
            list.add(&Layer {
                id: id.clone(),
                parent: chain.last().map(|below| below.id.clone()),
                created: image.created.clone(),
                diff_digest: format!("sha256:{}", file.diff_id),
                diff_size: file.size,
                uidmap: Vec::new(),
                gidmap: Vec::new(),
            })?;
            chain.push(LayerRecord {
                id,
                link,
                diff_id: file.diff_id.clone(),
                size: file.size,
                squashfs_size: file.squashfs_size,
                squashfs_sha256: file.squashfs_sha256.clone(),
                max_uid: file.max_uid,
                max_gid: file.max_gid,
            });
        }
        sync_parent(&self.root.join(LINKS).join("x"))?;
        sync_parent(&self.root.join("overlay/x"))?;
        Ok(chain)
    }

    /// Makes what is missing of one layer's directory and links, and returns its link: a base layer has the same id
    /// when podman-hpc brought it, and a link of its own then.
    fn layer_directory(&self, id: &str, file: &LayerFile, below: &[LayerRecord]) -> Result<Link, StoreError> {
        let directory = self.root.join("overlay").join(id);
        ensure_directory(&directory)?;
        ensure_directory(&directory.join("diff"))?;
        let there = read_if_there(&directory.join("link"))?.and_then(|bytes| String::from_utf8(bytes).ok());
        let link = match there.and_then(|text| Link::try_from(text.trim().to_owned()).ok()) {
            Some(link) => link,
            None => {
                let link = Link::of_layer(id);
                replace_file(&self.temporary(), &directory.join("link"), link.as_str().as_bytes())?;
                link
            }
        };
        if let Some(lower) = lower_file(below.iter().rev().map(|layer| &layer.link)) {
            let path = directory.join("lower");
            if !path.exists() {
                replace_file(&self.temporary(), &path, lower.as_bytes())?;
            }
        }
        let links = self.root.join(LINKS);
        ensure_link(&links.join(link.as_str()), &format!("../{id}/diff"))?;
        let squashfs = format!("../../{}", LayerFile::squashfs_path(&file.diff_id));
        ensure_link(&links.join(format!("{}.squash", link.as_str())), &squashfs)?;
        Ok(link)
    }

    fn publish_big_data(
        &self,
        image: &NewImage,
        list: &mut ImageList,
        chain: &[LayerRecord],
    ) -> Result<(), StoreError> {
        if list.has(&image.id) {
            return Ok(());
        }
        let Some(top) = chain.last() else { return Err(self.damaged("the image", &"it has no layers")) };
        let directory = self.root.join("overlay-images").join(&image.id);
        ensure_directory(&directory)?;
        let config_key = format!("sha256:{}", image.id);
        let manifest_key = format!("manifest-{}", image.digest);
        let data = [
            BigData { key: &manifest_key, bytes: image.manifest.as_bytes() },
            BigData { key: "manifest", bytes: image.manifest.as_bytes() },
            BigData { key: &config_key, bytes: image.config.as_bytes() },
        ];
        for piece in &data {
            replace_file(&self.temporary(), &directory.join(piece.file_name()), piece.bytes)?;
        }
        sync_parent(&directory)?;
        list.add(&Image::new(&image.id, &image.digest, Vec::new(), &top.id, &image.created, &data))
    }

    fn write_record(&self, record: &ImageRecord) -> Result<(), StoreError> {
        replace_file(&self.temporary(), &self.root.join(IndexPath::record(&record.id)), &record.to_bytes())
    }

    fn temporary(&self) -> PathBuf {
        self.root.join(TEMPORARY)
    }

    fn damaged(&self, what: &str, error: &dyn std::fmt::Display) -> StoreError {
        StoreError::Damaged { path: self.root.clone(), what: format!("{what}: {error}") }
    }
}

fn new_record(image: &NewImage, layers: Vec<LayerRecord>) -> ImageRecord {
    ImageRecord {
        version: VERSION,
        id: image.id.clone(),
        digest: image.digest.clone(),
        names: Vec::new(),
        created: image.created.clone(),
        manifest: image.manifest.clone(),
        config: image.config.clone(),
        layers,
    }
}

/// Makes a symbolic link where there is nothing yet.
fn ensure_link(path: &Path, target: &str) -> Result<(), StoreError> {
    match std::os::unix::fs::symlink(target, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error).context("create", path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
