//! What a lower directory is: a layer that lies in a SquashFS file, or a plain directory.
//!
//! A layer's SquashFS file, its side-car, is `overlay/l/<LINK>.squash`: `parallax migrate` and the Go tool make it a symbolic
//! link, podman-hpc a plain file. Podman names a layer `…/overlay/l/<LINK>` or `…/overlay/<ID>/diff`; in the second form
//! `<ID>/link` holds the link.
//!
//! The directory of a layer that lies in a SquashFS file is hollow: empty, but for the Go tool's marker. A hollow layer with no
//! side-car is a legitimate empty layer in an ordinary store, and a lost one in a store of SquashFS files: one that has
//! `parallax/layers`, `squash` (the Go tool's) or any other side-car. To take the second for the first would start a
//! container on an empty root.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use parallax_format::layout;
use parallax_format::squashfs::{MAGIC, Superblock};
use rustix::fs::OFlags;

use crate::shared_file_system;

/// How the name of the one file in a layer's directory begins that the Go tool leaves there.
const GO_TOOL_MARKER: &str = ".migrationv3-";

/// A lower directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// What is to be mounted.
    pub source: Source,
    /// Device and inode of that, by which the same layer is known again.
    pub identity: (u64, u64),
}

/// Where a layer's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In this SquashFS file.
    Squashfs(SideCar),
    /// In this directory.
    Directory {
        /// Its path.
        path: PathBuf,
        /// The `overlay` directory of the store, if it is a layer of one and has no files.
        hollow_in: Option<PathBuf>,
    },
}

impl Source {
    /// The SquashFS file, if it is one.
    pub fn side_car(&self) -> Option<&SideCar> {
        match self {
            Self::Squashfs(side_car) => Some(side_car),
            Self::Directory { .. } => None,
        }
    }
}

/// A SquashFS file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SideCar {
    /// Its path, absolute.
    pub path: PathBuf,
    /// By what it is known again.
    pub stamp: Stamp,
    /// The device of the file system on which the store lies: the file itself may lie elsewhere, and a step store is on a file
    /// system of its own.
    pub store_device: u64,
    /// The shared file system on which it lies, if it is one that is known.
    pub shared_file_system: Option<&'static str>,
}

/// What changes when a file is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// The file system's device.
    pub device: u64,
    /// The file in it.
    pub inode: u64,
    /// Its size in bytes.
    pub size: u64,
    /// When it was changed last, in nanoseconds since 1970.
    pub changed: i64,
}

/// Why a layer can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// Only its hollow directory is there.
    #[error(
        "{}, the SquashFS file of the layer {}, is missing: the image is damaged; migrate it again",
        side_car.display(), layer.display()
    )]
    Missing {
        /// Where it should be.
        side_car: PathBuf,
        /// The lower directory.
        layer: PathBuf,
    },
    /// Only a copy of its directory can be reached, made by Podman.
    #[error(
        "{} is an id-mapped mount that Podman made of the layer's directory; its SquashFS file can't be reached from there: \
         run the image without an id map, as a user who is not root, or with Podman 5",
        .0.display()
    )]
    MappedByPodman(PathBuf),
    /// It is there and is something else.
    #[error("{} is damaged: {reason}; migrate the image again", side_car.display())]
    Damaged {
        /// The file.
        side_car: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// Something can't be read.
    #[error("{} can't be read: {cause}", path.display())]
    Unreadable {
        /// What.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// Where a layer's files of a store are.
struct Place {
    /// The store's `overlay` directory.
    overlay: PathBuf,
    side_car: PathBuf,
}

/// Looks a lower directory up; `None` if it has no files and is there for form's sake only.
pub fn look_up(lower: &Path) -> Result<Option<Layer>, LayerError> {
    if is_filler(lower) { Ok(None) } else { layer(lower).map(Some) }
}

/// Whether this is `overlay/<ID>/empty`, which Podman puts below a layer that has none below it, so that there are two. It need
/// not exist.
fn is_filler(lower: &Path) -> bool {
    lower.file_name().is_some_and(|name| name == "empty")
        && lower.with_file_name(layout::LINK).is_file()
        && fs::read_dir(lower)
            .map_or_else(|error| error.kind() == ErrorKind::NotFound, |mut files| files.next().is_none())
}

fn layer(lower: &Path) -> Result<Layer, LayerError> {
    let Some(place) = place(lower)? else { return directory(lower, None) };
    let side_car = place.side_car;
    // Without NONBLOCK opening a FIFO would wait.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    match OpenOptions::new().read(true).custom_flags(flags).open(&side_car) {
        Ok(file) => squashfs(file, side_car),
        Err(error) if error.kind() == ErrorKind::NotFound && is_mapped_by_podman(lower) => {
            Err(LayerError::MappedByPodman(lower.to_owned()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // A symbolic link that leads nowhere is a side-car that was lost.
            if side_car.is_symlink() {
                return Err(LayerError::Missing { side_car, layer: lower.to_owned() });
            }
            match hollowness(lower)? {
                Hollowness::Marked => Err(LayerError::Missing { side_car, layer: lower.to_owned() }),
                Hollowness::Empty if holds_squashfs(&place.overlay) => {
                    Err(LayerError::Missing { side_car, layer: lower.to_owned() })
                }
                Hollowness::Empty => directory(lower, Some(place.overlay)),
                Hollowness::Full => directory(lower, None),
            }
        }
        Err(cause) => Err(LayerError::Unreadable { path: side_car, cause }),
    }
}

/// Where the layer's side-car would be; nowhere for a directory that has not the form of a layer.
fn place(lower: &Path) -> Result<Option<Place>, LayerError> {
    let (Some(name), Some(parent)) = (lower.file_name(), lower.parent()) else { return Ok(None) };
    let Some(overlay) = parent.parent() else { return Ok(None) };
    let link = if parent.file_name().is_some_and(|parent| parent == layout::LINKS_NAME) {
        name.to_owned()
    } else if name == layout::DIFF {
        let path = parent.join(layout::LINK);
        match fs::read_to_string(&path) {
            Ok(link) => link.trim().into(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(LayerError::Unreadable { path, cause }),
        }
    } else {
        return Ok(None);
    };
    // A link is letters and digits; anything else would lead elsewhere.
    if link.is_empty() || !link.as_encoded_bytes().iter().all(u8::is_ascii_alphanumeric) {
        return Ok(None);
    }
    let mut file = link;
    file.push(".");
    file.push(layout::SQUASHFS);
    Ok(Some(Place { overlay: overlay.to_owned(), side_car: overlay.join(layout::LINKS_NAME).join(file) }))
}

/// Whether this is `<container>/mapped/<N>/l/<LINK>`: so rootful Podman 4 names layers to which it gives an id map itself.
fn is_mapped_by_podman(lower: &Path) -> bool {
    let mut above = lower.ancestors().skip(2).filter_map(Path::file_name);
    let is_number = |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    above.next().is_some_and(is_number) && above.next().is_some_and(|name| name == "mapped")
}

fn directory(path: &Path, hollow_in: Option<PathBuf>) -> Result<Layer, LayerError> {
    let metadata = fs::metadata(path).map_err(|cause| LayerError::Unreadable { path: path.to_owned(), cause })?;
    let source = Source::Directory { path: path.to_owned(), hollow_in };
    Ok(Layer { source, identity: (metadata.dev(), metadata.ino()) })
}

fn squashfs(file: File, side_car: PathBuf) -> Result<Layer, LayerError> {
    let mut superblock = Vec::new();
    let read = |file: &File| -> io::Result<(fs::Metadata, Vec<u8>)> {
        let metadata = file.metadata()?;
        if metadata.is_file() {
            file.take(Superblock::BYTES).read_to_end(&mut superblock)?;
        }
        Ok((metadata, superblock))
    };
    let (metadata, superblock) = match read(&file) {
        Ok(read) => read,
        Err(cause) => return Err(LayerError::Unreadable { path: side_car, cause }),
    };
    if let Some(reason) = fault(metadata.len(), &superblock) {
        return Err(LayerError::Damaged { side_car, reason });
    }
    let unreadable = |cause| LayerError::Unreadable { path: side_car.clone(), cause };
    let stamp = Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.len(),
        changed: metadata.ctime().wrapping_mul(1_000_000_000).wrapping_add(metadata.ctime_nsec()),
    };
    let shared_file_system = shared_file_system::of(&file).map_err(|error| unreadable(error.into()))?;
    let path = std::path::absolute(&side_car).map_err(unreadable)?;
    let store_device = path.parent().map(fs::metadata).transpose().map_err(unreadable)?.map_or(0, |links| links.dev());
    let identity = (stamp.device, stamp.inode);
    Ok(Layer { source: Source::Squashfs(SideCar { path, stamp, store_device, shared_file_system }), identity })
}

/// What is wrong with a file of this size that begins like this.
fn fault(size: u64, superblock: &[u8]) -> Option<&'static str> {
    match Superblock::parse(superblock) {
        Some(superblock) if superblock.bytes_used <= size => None,
        None if !superblock.starts_with(MAGIC) => Some("it is no SquashFS file"),
        _ => Some("it is shorter than it says"),
    }
}

enum Hollowness {
    Full,
    Empty,
    Marked,
}

fn hollowness(layer: &Path) -> Result<Hollowness, LayerError> {
    let unreadable = |cause| LayerError::Unreadable { path: layer.to_owned(), cause };
    let mut found = Hollowness::Empty;
    for entry in fs::read_dir(layer).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        if !name.as_encoded_bytes().starts_with(GO_TOOL_MARKER.as_bytes()) {
            return Ok(Hollowness::Full);
        }
        found = Hollowness::Marked;
    }
    Ok(found)
}

/// Whether a store, known by its `overlay` directory, is one of SquashFS files. What can't be read does not speak for it.
fn holds_squashfs(overlay: &Path) -> bool {
    let root = overlay.parent().unwrap_or(overlay);
    root.join(layout::LAYERS).is_dir()
        || root.join(layout::SQUASH).is_dir()
        || fs::read_dir(overlay.join(layout::LINKS_NAME)).is_ok_and(|links| {
            links
                .flatten()
                .any(|link| Path::new(&link.file_name()).extension().is_some_and(|end| end == layout::SQUASHFS))
        })
}

#[cfg(test)]
mod tests;
