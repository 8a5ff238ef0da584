//! Kinds of lower directories: a layer in a SquashFS file, or a plain directory.
//!
//! A layer's SquashFS file, its sidecar, is `overlay/l/<LINK>.squash`: `parallax migrate` and the Go tool make it a symbolic
//! link, podman-hpc a regular file. A layer that the store has in EROFS alone has `overlay/l/<LINK>.erofs` instead. Podman names a layer `…/overlay/l/<LINK>` or `…/overlay/<ID>/diff`; in the second form
//! `<ID>/link` contains the link.
//!
//! A layer of an image that lies in unpacked layers elsewhere has a list of their directories (`overlay/<ID>/parts`), since Podman can have one
//! directory only. Files whose names begin with `.wh.` delete files of lower layers there, which fuse-overlayfs knows and the kernel does not.
//!
//! The directory of a layer in a SquashFS file is an empty placeholder: empty, except for the Go tool's marker. A placeholder
//! without a sidecar is a legitimate empty layer in an ordinary store, and a lost layer in a store of SquashFS files: a store with
//! `parallax/layers`, `squash` (the Go tool's) or any other sidecar. Mistaking the second for the first would start a
//! container on an empty root.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use parallax_file_system::Kind;
use parallax_format::layout;
use parallax_format::squashfs::{MAGIC, Superblock};
use parallax_format::{LayerFormat, erofs};
use rustix::fs::{OFlags, fstatfs};

use crate::chunks::Chunks;

/// Prefix of the name of the marker file that the Go tool leaves in a layer's directory.
const GO_TOOL_MARKER: &str = ".migrationv3-";

/// A lower directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    /// The layer's source.
    pub source: Source,
    /// Device and inode of the source, which identify the layer.
    pub identity: (u64, u64),
}

/// Location of a layer's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// In this SquashFS or EROFS file.
    Squashfs(Sidecar),
    /// In this directory.
    Directory {
        /// Its path.
        path: PathBuf,
        /// The `overlay` directory of the store, if the directory is a layer of a store and has no files.
        hollow_in: Option<PathBuf>,
    },
    /// In these directories together, the topmost first, in which names that begin with `.wh.` stand for deleted files.
    Parts(Vec<PathBuf>),
}

impl Source {
    /// Returns the SquashFS file, if the source is one.
    pub(crate) fn sidecar(&self) -> Option<&Sidecar> {
        match self {
            Self::Squashfs(sidecar) => Some(sidecar),
            Self::Directory { .. } | Self::Parts(_) => None,
        }
    }
}

/// A SquashFS or EROFS file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sidecar {
    /// Its format.
    pub format: LayerFormat,
    /// Its path, absolute; for a layer in chunks only, that of their index.
    pub path: PathBuf,
    /// Its chunks, if the store has nothing else.
    pub chunks: Option<Chunks>,
    /// Identity of the file.
    pub stamp: Stamp,
    /// The device of the store's file system: the file itself may be elsewhere, and a step store has a separate file
    /// system.
    pub store_device: u64,
    /// The file's shared file system, if known.
    pub shared_file_system: Option<&'static str>,
}

/// Identity of a file, which changes when the file is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stamp {
    /// The file system's device.
    pub device: u64,
    /// The file in it.
    pub inode: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Time of the last change, in nanoseconds since 1970.
    pub changed: i64,
}

/// Error of looking up a layer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayerError {
    /// Only the empty placeholder exists.
    #[error(
        "{}, the SquashFS file of the layer {}, is missing: the image is corrupt; migrate it again",
        sidecar.display(), layer.display()
    )]
    Missing {
        /// The path of the missing file.
        sidecar: PathBuf,
        /// The lower directory.
        layer: PathBuf,
    },
    /// Only a copy of the layer's directory is accessible, made by Podman.
    #[error(
        "{} is an id-mapped mount that Podman made of the layer's directory; its SquashFS file cannot be reached from there: \
         run the image without an id map, as a user who is not root, or with Podman 5",
        .0.display()
    )]
    MappedByPodman(PathBuf),
    /// The SquashFS file is invalid.
    #[error("{} is corrupt: {reason}; migrate the image again", sidecar.display())]
    Damaged {
        /// The file.
        sidecar: PathBuf,
        /// The reason.
        reason: &'static str,
    },
    /// A file or directory cannot be read.
    #[error("{} cannot be read: {cause}", path.display())]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// The cause.
        cause: io::Error,
    },
}

/// Location of a layer in a store.
struct Place {
    /// The store's `overlay` directory.
    overlay: PathBuf,
    sidecar: PathBuf,
}

/// Looks up a lower directory; `None` if the directory has no files and Podman adds it only to have two.
pub(crate) fn look_up(lower: &Path) -> Result<Option<Layer>, LayerError> {
    if is_filler(lower) { Ok(None) } else { layer(lower).map(Some) }
}

/// Looks up a SquashFS file that belongs to no store.
pub(crate) fn file(path: &Path) -> Result<Sidecar, LayerError> {
    let unreadable = |cause| LayerError::Unreadable { path: path.to_owned(), cause };
    let layer = match open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            in_chunks(Chunks::look_up(path, path).ok_or_else(|| unreadable(error))?)?
        }
        opened => in_file(opened.map_err(unreadable)?, path.to_owned(), LayerFormat::Squashfs)?,
    };
    match layer.source {
        Source::Squashfs(sidecar) => Ok(sidecar),
        Source::Directory { .. } | Source::Parts(_) => Err(unreadable(ErrorKind::IsADirectory.into())),
    }
}

/// Whether this is `overlay/<ID>/empty`, which Podman puts below a bottom layer, so that there are two lower directories. The
/// directory need not exist.
fn is_filler(lower: &Path) -> bool {
    lower.file_name().is_some_and(|name| name == layout::EMPTY)
        && lower.with_file_name(layout::LINK).is_file()
        && fs::read_dir(lower)
            .map_or_else(|error| error.kind() == ErrorKind::NotFound, |mut files| files.next().is_none())
}

fn layer(lower: &Path) -> Result<Layer, LayerError> {
    let Some(place) = place(lower)? else { return directory(lower, None) };
    let sidecar = place.sidecar;
    match open(&sidecar) {
        Ok(file) => in_file(file, sidecar, LayerFormat::Squashfs),
        Err(error) if error.kind() == ErrorKind::NotFound && is_erofs(&sidecar) => {
            let sidecar = sidecar.with_extension(layout::EROFS);
            match open(&sidecar) {
                Ok(file) => in_file(file, sidecar, LayerFormat::Erofs),
                Err(cause) => Err(LayerError::Unreadable { path: sidecar, cause }),
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound && is_mapped_by_podman(lower) => {
            Err(LayerError::MappedByPodman(lower.to_owned()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // A symbolic link that leads nowhere is a sidecar that was lost.
            if sidecar.is_symlink() {
                return without_file(sidecar, lower);
            }
            if let Some(layer) = parts(lower)? {
                return Ok(layer);
            }
            match hollowness(lower)? {
                Hollowness::Marked => without_file(sidecar, lower),
                Hollowness::Empty if holds_squashfs(&place.overlay) => without_file(sidecar, lower),
                Hollowness::Empty => directory(lower, Some(place.overlay)),
                Hollowness::Full => directory(lower, None),
            }
        }
        Err(cause) => Err(LayerError::Unreadable { path: sidecar, cause }),
    }
}

/// Returns the layer whose files lie in several directories elsewhere, which a list in its directory names; `None` without such a list.
fn parts(lower: &Path) -> Result<Option<Layer>, LayerError> {
    let unreadable = |path: &Path, cause| LayerError::Unreadable { path: path.to_owned(), cause };
    let files = lower.canonicalize().map_err(|cause| unreadable(lower, cause))?;
    let list = files.with_file_name(layout::PARTS);
    let text = match fs::read_to_string(&list) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(cause) => return Err(unreadable(&list, cause)),
    };
    let paths: Vec<PathBuf> = text.lines().map(PathBuf::from).collect();
    for path in &paths {
        // fuse-overlayfs would show what is there of the image.
        fs::read_dir(path).map_err(|cause| unreadable(path, cause))?;
    }
    let metadata = fs::metadata(&list).map_err(|cause| unreadable(&list, cause))?;
    Ok(Some(Layer { source: Source::Parts(paths), identity: (metadata.dev(), metadata.ino()) }))
}

/// Whether there is an EROFS file, and no trace of a SquashFS file.
fn is_erofs(sidecar: &Path) -> bool {
    !sidecar.is_symlink() && sidecar.with_extension(layout::EROFS).exists()
}

/// Returns the layer whose file is missing from its chunks, if the store has them.
fn without_file(sidecar: PathBuf, lower: &Path) -> Result<Layer, LayerError> {
    match Chunks::look_up(&sidecar, lower) {
        Some(chunks) => in_chunks(chunks),
        None => Err(LayerError::Missing { sidecar, layer: lower.to_owned() }),
    }
}

fn in_chunks(chunks: Chunks) -> Result<Layer, LayerError> {
    let path = chunks.index.clone();
    let look = || -> io::Result<Layer> {
        let file = open(&path)?;
        of_file(&file, &file.metadata()?, path.clone(), LayerFormat::Squashfs, Some(chunks))
    };
    look().map_err(|cause| LayerError::Unreadable { path: path.clone(), cause })
}

fn open(path: &Path) -> io::Result<File> {
    // Without NONBLOCK opening a FIFO would wait.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Returns the path of the layer's sidecar; `None` for a directory that does not have the form of a layer.
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
    Ok(Some(Place { overlay: overlay.to_owned(), sidecar: overlay.join(layout::LINKS_NAME).join(file) }))
}

/// Whether this is `<container>/mapped/<N>/l/<LINK>`, the name of layers to which rootful Podman 4 itself gives an id map.
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

fn in_file(file: File, sidecar: PathBuf, format: LayerFormat) -> Result<Layer, LayerError> {
    let mut superblock = Vec::new();
    let read = |file: &File| -> io::Result<(fs::Metadata, Vec<u8>)> {
        let metadata = file.metadata()?;
        if metadata.is_file() {
            file.take(Superblock::BYTES.max(erofs::Superblock::BYTES)).read_to_end(&mut superblock)?;
        }
        Ok((metadata, superblock))
    };
    let (metadata, superblock) = match read(&file) {
        Ok(read) => read,
        Err(cause) => return Err(LayerError::Unreadable { path: sidecar, cause }),
    };
    let reason = match format {
        LayerFormat::Squashfs => fault(metadata.len(), &superblock),
        LayerFormat::Erofs => erofs_fault(metadata.len(), &superblock),
    };
    if let Some(reason) = reason {
        return Err(LayerError::Damaged { sidecar, reason });
    }
    of_file(&file, &metadata, sidecar.clone(), format, None)
        .map_err(|cause| LayerError::Unreadable { path: sidecar, cause })
}

fn of_file(
    file: &File,
    metadata: &fs::Metadata,
    path: PathBuf,
    format: LayerFormat,
    chunks: Option<Chunks>,
) -> io::Result<Layer> {
    let stamp = Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.len(),
        changed: metadata.ctime().wrapping_mul(1_000_000_000).wrapping_add(metadata.ctime_nsec()),
    };
    let kind = Kind::of_number(fstatfs(file)?.f_type.into());
    // It is for the log, where it helps to explain slow starts.
    let shared_file_system = kind.may_be_shared().then_some(kind.name);
    let path = std::path::absolute(path)?;
    let store_device = path.parent().map(fs::metadata).transpose()?.map_or(0, |links| links.dev());
    let identity = (stamp.device, stamp.inode);
    let sidecar = Sidecar { format, path, chunks, stamp, store_device, shared_file_system };
    Ok(Layer { source: Source::Squashfs(sidecar), identity })
}

/// Returns why a file with this size and these first bytes is invalid; `None` if it is valid.
fn fault(size: u64, superblock: &[u8]) -> Option<&'static str> {
    match Superblock::parse(superblock) {
        Some(superblock) if superblock.bytes_used <= size => None,
        None if !superblock.starts_with(MAGIC) => Some("it is not a SquashFS file"),
        _ => Some("it is truncated"),
    }
}

/// The same for an EROFS file.
fn erofs_fault(size: u64, start: &[u8]) -> Option<&'static str> {
    match erofs::Superblock::parse(start) {
        Some(superblock) if superblock.bytes_used <= size => None,
        Some(_) => Some("it is truncated"),
        None => Some("it is not an EROFS file"),
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

/// Whether a store, given by its `overlay` directory, has SquashFS files. Unreadable directories count as absent.
fn holds_squashfs(overlay: &Path) -> bool {
    let root = overlay.parent().unwrap_or(overlay);
    root.join(layout::LAYERS).is_dir()
        || root.join(layout::SQUASH).is_dir()
        || fs::read_dir(overlay.join(layout::LINKS_NAME)).is_ok_and(|links| {
            links.flatten().any(|link| {
                Path::new(&link.file_name())
                    .extension()
                    .is_some_and(|end| end == layout::SQUASHFS || end == layout::EROFS)
            })
        })
}

#[cfg(test)]
mod tests;
