//! Layers that a store has in chunks only: `parallax-lazy` serves the file by FUSE, with the user's rights, and squashfuse reads it.
//!
//! The file is attached nowhere. squashfuse gets its mount by a descriptor, which it opens as `/dev/fd/N`. So the file is used as long as
//! squashfuse lives, and `parallax-lazy` ends when it is used by nothing any more.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use parallax_format::layout;
use rustix::mount::MountAttrFlags;

use crate::fuse::{self, Connected, FuseError, MountOptions, Program, Server};
use crate::log::Log;
use crate::settings::Settings;

/// The options of the mount of a file.
const OPTIONS: MountOptions = MountOptions {
    subtype: "parallax-lazy",
    root_mode: "100444",
    flags: &[],
    attributes: MountAttrFlags::MOUNT_ATTR_RDONLY
        .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
        .union(MountAttrFlags::MOUNT_ATTR_NODEV),
    context: None,
};

/// Chunks of a layer's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunks {
    /// The index.
    pub index: PathBuf,
    /// The chunk store beside it.
    pub store: PathBuf,
}

impl Chunks {
    /// Looks the chunks of a layer up whose SquashFS file is missing: their index is beside that file, or in the layer's directory.
    pub(crate) fn look_up(sidecar: &Path, lower: &Path) -> Option<Self> {
        let file = fs::read_link(sidecar).map_or_else(|_| sidecar.to_owned(), |target| sidecar.with_file_name(target));
        let beside = || {
            let name = Path::new(layout::CHUNK_STORE).file_name()?;
            Some(Self { index: file.with_extension(layout::CHUNK_INDEX), store: file.with_file_name(name) })
        };
        let own = || {
            let files = lower.canonicalize().ok()?;
            let [directory, root] = [1, 3].map(|above| files.ancestors().nth(above));
            let index = layout::own_file(directory?.file_name()?.to_str()?, layout::CHUNK_INDEX);
            Some(Self { index: root?.join(index), store: root?.join(layout::CHUNK_STORE) })
        };
        beside().filter(|chunks| chunks.index.is_file()).or_else(own).filter(|chunks| chunks.index.is_file())
    }
}

/// A file that is being served.
#[derive(Debug)]
pub(crate) struct ServedFile {
    /// The mount whose root the file is.
    pub mount: OwnedFd,
    /// The serving program.
    pub server: Server,
}

/// Has a layer's file served, by a process that listens on `socket`.
pub(crate) fn serve(
    chunks: &Chunks,
    socket: Option<&OwnedFd>,
    settings: &Settings,
    log: &Log,
) -> Result<ServedFile, FuseError> {
    let connection = fuse::connection()?;
    // The program cannot read from a device without a mount.
    let mount = fuse::mount(&connection, &OPTIONS).map_err(FuseError::Mount)?;
    let arguments: [OsString; 8] = [
        "--config".into(),
        parallax_config::DEFAULT_PATH.into(),
        "--log".into(),
        "warn".into(),
        "--index".into(),
        chunks.index.clone().into(),
        "--chunk-store".into(),
        chunks.store.clone().into(),
    ];
    let errors = log.stream();
    let program = Program {
        programs: &settings.lazy,
        arguments: &arguments,
        directory: "/",
        socket: socket.map(AsFd::as_fd),
        inherited: &[],
        connected: Connected::Input { errors: errors.as_ref().map(|errors| errors.as_fd()) },
    };
    // This process keeps no copy of the connection: without a server, reads are to fail.
    Ok(ServedFile { mount, server: fuse::start(program, &connection)? })
}
