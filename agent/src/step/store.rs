//! The metadata of a step store: an additional image store for Podman with one image in it.
//!
//! Pure: from an image's record and the user's ids to the files to write and the places where mounts go. The store has up to
//! two chains of layers over the same SquashFS files. Podman takes the plain chain for a container whose root is the user. For
//! `--userns=keep-id` it looks for a chain whose records carry exactly the container's map, and uses it as it is; without one
//! it would copy the whole image.
//!
//! In run mode no Podman reads the store: it then has the layers alone ([`StepStore::of_layers`]).
//!
//! Where the mount program mounts the layers, one chain is enough: Podman gives it the container's map. Beside each layer's link
//! then lies the layer's SquashFS file, `overlay/l/<LINK>.squash`, which is what the mount program looks for.

use std::collections::HashSet;

use parallax_format::LayerFormat;
use parallax_format::digest::{Digest, LayerId};
use parallax_format::layout::{self, podmans_tar_split};
use parallax_format::layout::{IMAGES_JSON, IMAGES_LOCK, LAYERS_JSON, LAYERS_LOCK};
use parallax_format::podman::{IdMapEntry, Image, LOCK_TOKEN_BYTES, Layer};
use parallax_format::record::{ImageRecord, LayerRecord};
use parallax_store::LayerFile;
use parallax_store::hash::{big_data, sha256};

use crate::identity::{Identity, NamespaceKind};

/// The contents of a step store; all paths are relative to its root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StepStore {
    /// Directories, each after its parent.
    pub directories: Vec<String>,
    /// Files and their contents.
    pub files: Vec<(String, Vec<u8>)>,
    /// Symbolic links and their targets.
    pub links: Vec<(String, String)>,
    /// The mount points of layers.
    pub mounts: Vec<LayerMount>,
    /// The places of the layers' SquashFS files.
    pub sidecars: Vec<Sidecar>,
    /// The paths of layers without any metadata in Podman's directory of layers, the topmost first.
    pub plain_layers: Vec<String>,
}

/// The form of the layers in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form<'a> {
    /// Mounted, once for each of these kinds of namespace; the first kind is the one Podman sees as the image's own.
    Mounts(&'a [NamespaceKind]),
    /// As files, for the mount program.
    Files,
}

/// A place where a layer's SquashFS file is to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    /// The layer's index in the image's record.
    pub layer: usize,
    /// The path.
    pub path: String,
}

/// A place where a layer is to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerMount {
    /// The layer's index in the image's record.
    pub layer: usize,
    /// The id map of the mount.
    pub kind: NamespaceKind,
    /// The directory that has the mount point in it.
    pub directory: String,
    /// The mount point's name.
    pub name: String,
}

/// Returns the place of a layer's file, by its format.
fn sidecar(image: &ImageRecord, layer: usize, link: &str) -> String {
    layout::sidecar_of(link, image.layers.get(layer).map_or_else(LayerFormat::default, |layer| layer.format))
}

/// One chain of layer records.
struct Chain<'a> {
    kind: NamespaceKind,
    /// Podman's ids of the layers, base first.
    ids: Vec<LayerId>,
    uidmap: &'a [IdMapEntry],
    gidmap: &'a [IdMapEntry],
}

impl StepStore {
    /// Lays out the store of an image.
    #[must_use]
    pub fn new(image: &ImageRecord, identity: &Identity, form: Form<'_>) -> Self {
        let kinds = match form {
            Form::Mounts(kinds) => kinds,
            Form::Files => &[NamespaceKind::Plain],
        };
        let (uidmap, gidmap) = (identity.users.podman_keep_id_map(), identity.groups.podman_keep_id_map());
        let chains: Vec<Chain<'_>> = kinds.iter().map(|&kind| Chain::new(image, kind, &uidmap, &gidmap)).collect();
        let mut store = Self::default();
        for directory in layout::PODMANS_DIRECTORIES {
            store.directories.push(directory.to_owned());
        }
        for lock in [IMAGES_LOCK, LAYERS_LOCK] {
            // Nobody ever writes here, so any token is as good as another.
            store.file(lock, vec![b'p'; LOCK_TOKEN_BYTES]);
        }
        for chain in &chains {
            store.add_layers(chain, image, form);
        }
        let mut layers: Vec<Layer> = chains.iter().flat_map(|chain| chain.records(image)).collect();
        // Podman adds up the sizes of all chains; the files are there once.
        for layer in layers.iter_mut().skip(image.layers.len()) {
            layer.diff_size = 0;
        }
        store.file(LAYERS_JSON, json(&layers));
        store.add_image(image, &chains);
        store
    }

    /// Lays out the layers of an image for the container of run mode, which Podman takes no part in: no metadata, and each layer once.
    #[must_use]
    pub fn of_layers(image: &ImageRecord, form: Form<'_>) -> Self {
        let kind = match form {
            Form::Mounts(kinds) => kinds.first().copied(),
            Form::Files => None,
        };
        let mut store =
            Self { directories: vec![layout::OVERLAY.to_owned(), layout::LINKS.to_owned()], ..Self::default() };
        for layer in distinct(&image.layers) {
            let name = format!("L{layer}");
            match kind {
                Some(kind) => {
                    store.directories.push(layout::link(&name));
                    store.mounts.push(LayerMount {
                        layer,
                        kind,
                        directory: layout::LINKS.to_owned(),
                        name: name.clone(),
                    });
                }
                None => store.sidecars.push(Sidecar { layer, path: sidecar(image, layer, &name) }),
            }
            store.plain_layers.push(layout::lower(&name));
        }
        store
    }

    /// Leads Podman to what it needs to save and push the image's layers, whose store is at `root`. Where the layers are not
    /// mounted Podman cannot read their files, and the store has data that makes it say so.
    #[must_use]
    pub fn with_tar_split(mut self, image: &ImageRecord, root: &str) -> Self {
        let of_layer = |index: usize| image.layers.get(index).map(|layer| (&layer.id, &layer.diff_id));
        let is_known = |index: usize| image.layers.get(index).is_some_and(|layer| layer.tree.is_none());
        for mount in &self.mounts {
            let id = layout::layer_of_directory(&mount.directory).unwrap_or(&mount.directory);
            if let Some((layer, diff_id)) = of_layer(mount.layer) {
                let known = is_known(mount.layer).then(|| LayerFile::tar_split_path(diff_id));
                let target = format!("{root}/{}", known.unwrap_or_else(|| podmans_tar_split(layer)));
                self.links.push((podmans_tar_split(id), target));
            }
        }
        for sidecar in &self.sidecars {
            if let Some((id, _)) = of_layer(sidecar.layer) {
                self.links.push((podmans_tar_split(id), format!("{root}/{}", podmans_tar_split(id))));
            }
        }
        self
    }

    /// Returns `true` if the store has no image: Podman is to pull it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.directories.is_empty()
    }

    /// Returns `true` if the layers are SquashFS files, which the mount program mounts.
    #[must_use]
    pub fn needs_mount_program(&self) -> bool {
        !self.sidecars.is_empty()
    }

    fn file(&mut self, path: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.files.push((path.into(), bytes.into()));
    }

    fn add_layers(&mut self, chain: &Chain<'_>, image: &ImageRecord, form: Form<'_>) {
        for (index, id) in chain.ids.iter().enumerate() {
            let directory = layout::layer_directory(id);
            let link = chain.link(index);
            self.directories.push(directory.clone());
            self.directories.push(format!("{directory}/{}", layout::DIFF));
            self.links.push((layout::link(&link), layout::link_target(id)));
            if form == Form::Files {
                self.sidecars.push(Sidecar { layer: index, path: sidecar(image, index, &link) });
            }
            self.file(format!("{directory}/{}", layout::LINK), link);
            let below: Vec<String> = below(image.layers.get(..=index).unwrap_or_default())
                .into_iter()
                .map(|below| format!("l/{}", chain.link(below)))
                .collect();
            if !below.is_empty() {
                self.file(format!("{directory}/lower"), below.join(":"));
            }
            if let Form::Mounts(_) = form {
                self.mounts.push(LayerMount {
                    layer: index,
                    kind: chain.kind,
                    directory,
                    name: layout::DIFF.to_owned(),
                });
            }
        }
    }

    fn add_image(&mut self, image: &ImageRecord, chains: &[Chain<'_>]) {
        // An image's id is this digest too, but for those of the Go tool, which draws ids at random.
        let config_key = Digest::from(sha256(image.config.as_bytes())).to_string();
        let data = [big_data("manifest", image.manifest.as_bytes()), big_data(&config_key, image.config.as_bytes())];
        let mut tops = chains.iter().filter_map(Chain::top);
        let directory = layout::image_directory(&image.id);
        self.directories.push(directory.clone());
        // A record has at least one layer.
        let first = tops.next();
        let entry = first.map(|top| Image {
            mapped_layers: tops.collect(),
            ..Image::new(image.id, image.digest, image.names.clone(), top, &image.created, &data)
        });
        for item in data {
            self.file(format!("{directory}/{}", item.file_name()), item.bytes);
        }
        self.file(IMAGES_JSON, json(&entry.as_slice()));
    }
}

impl<'a> Chain<'a> {
    fn new(image: &ImageRecord, kind: NamespaceKind, uidmap: &'a [IdMapEntry], gidmap: &'a [IdMapEntry]) -> Self {
        let ids = image.layers.iter().map(|layer| match kind {
            NamespaceKind::Plain => layer.id,
            NamespaceKind::KeepId => sha256(format!("keep-id {}", layer.id).as_bytes()).into(),
        });
        let (uidmap, gidmap): (&[IdMapEntry], &[IdMapEntry]) = match kind {
            NamespaceKind::Plain => (&[], &[]),
            NamespaceKind::KeepId => (uidmap, gidmap),
        };
        Self { kind, ids: ids.collect(), uidmap, gidmap }
    }

    /// The short name of a layer. Every lower directory's path is part of one mount option of at most a page, so here
    /// it is much shorter than the 26 letters that containers/storage makes; it reads any.
    fn link(&self, index: usize) -> String {
        match self.kind {
            NamespaceKind::Plain => format!("P{index}"),
            NamespaceKind::KeepId => format!("K{index}"),
        }
    }

    fn top(&self) -> Option<LayerId> {
        self.ids.last().copied()
    }

    fn records(&self, image: &ImageRecord) -> Vec<Layer> {
        let entry = |(index, (id, layer)): (usize, (&LayerId, &LayerRecord))| Layer {
            id: *id,
            parent: index.checked_sub(1).and_then(|below| self.ids.get(below).copied()),
            created: image.created.clone(),
            diff_digest: layer.diff_id.into(),
            diff_size: layer.size,
            uidmap: self.uidmap.to_vec(),
            gidmap: self.gidmap.to_vec(),
        };
        self.ids.iter().zip(&image.layers).enumerate().map(entry).collect()
    }
}

/// The indices of the layers that lie below the last one, nearest first.
fn below(layers: &[LayerRecord]) -> Vec<usize> {
    distinct(layers).into_iter().skip(1).collect()
}

/// The indices of the layers, topmost first, each layer once.
///
/// An image may have a layer more than once; builders make many empty ones. The kernel refuses an overlay that names a file system
/// twice, and the lower one of the two adds nothing: all it has is in the upper one too.
fn distinct(layers: &[LayerRecord]) -> Vec<usize> {
    let mut seen = HashSet::new();
    let distinct = layers.iter().enumerate().rev().filter(|(_, layer)| seen.insert(layer.diff_id));
    distinct.map(|(index, _)| index).collect()
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    // Maps with text keys, texts and numbers only: this cannot fail.
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests;
