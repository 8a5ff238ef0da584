//! Layers in SquashFS or EROFS files, each a detached mount.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use rustix::fs::{AtFlags, StatxFlags, fstatfs, statx};
use rustix::mount::MountAttrFlags;

use crate::chunks::{self, Chunks};
use crate::fuse::{self, Connected, DIRECTORY, FuseError, MountOptions, Program, Server};
use crate::layer::Sidecar;
use crate::log::Log;
use crate::settings::Settings;
use crate::share::{self, Name};
use parallax_format::LayerFormat;
use parallax_sys::fault;

/// The options of the mount of a layer.
const fn options(format: LayerFormat) -> MountOptions {
    let subtype = match format {
        LayerFormat::Squashfs => "squashfuse_ll",
        LayerFormat::Erofs => "erofsfuse",
    };
    MountOptions { subtype, ..OPTIONS }
}

const OPTIONS: MountOptions = MountOptions {
    subtype: "squashfuse_ll",
    root_mode: DIRECTORY,
    flags: &[],
    attributes: MountAttrFlags::MOUNT_ATTR_RDONLY
        .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
        .union(MountAttrFlags::MOUNT_ATTR_NODEV),
    context: None,
};

/// Error of mounting a layer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayerMountError {
    /// No program serves the layer.
    #[error("{} cannot be mounted: {cause}", path.display())]
    Server {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: FuseError,
    },
    /// The layer was mounted and cannot be read.
    #[error("{} was mounted and cannot be read ({cause}): it is corrupt, or the program that serves it has ended", path.display())]
    Dead {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// A layer that is served or whose server is starting.
#[derive(Debug)]
pub(crate) struct Layer<'a> {
    sidecar: &'a Sidecar,
    mount: OwnedFd,
    /// The serving program, if it was started here.
    server: Option<Server>,
    /// The program that serves the layer's file in chunks, if it was started here.
    file_server: Option<Server>,
}

impl AsFd for Layer<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

impl Layer<'_> {
    /// The SquashFS file.
    pub(crate) fn path(&self) -> &Path {
        &self.sidecar.path
    }
}

/// Numbers of layers, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Count {
    /// All.
    pub layers: usize,
    /// Layers whose squashfuse was already running.
    pub shared: usize,
}

/// Has every layer served, by a running squashfuse or a new one; all are started before the function waits for
/// the first. `log` gets the reasons why a layer is not shared.
pub(crate) fn serve<'a>(
    sidecars: &[&'a Sidecar],
    settings: &Settings,
    first_user_namespace: bool,
    log: &Log,
) -> Result<(Vec<Layer<'a>>, Count), LayerMountError> {
    let mut layers: Vec<_> = sidecars.iter().map(|sidecar| shared(sidecar, settings)).collect();
    if layers.iter().any(Option::is_none) {
        let turn = share::turn(first_user_namespace);
        if let Err(error) = &turn {
            log.note(&format!("squashfuse processes are not shared: {error}"));
        }
        for (layer, sidecar) in layers.iter_mut().zip(sidecars) {
            if layer.is_none() {
                *layer = match shared(sidecar, settings) {
                    None => Some(started(sidecar, settings, turn.is_ok(), log)?),
                    found => found,
                };
            }
        }
    }
    let mut layers: Vec<_> = layers.into_iter().flatten().collect();
    let count = Count { layers: layers.len(), shared: layers.iter().filter(|layer| layer.server.is_none()).count() };
    wait(&mut layers, settings, log)?;
    Ok((layers, count))
}

/// Returns the layer from a squashfuse that serves it already.
fn shared<'a>(sidecar: &'a Sidecar, settings: &Settings) -> Option<Layer<'a>> {
    let (programs, flags) = settings.server(sidecar.format);
    // A squashfuse whose file is no longer served reads nothing more.
    let is_served = |_: &Chunks| name_of_file(sidecar, settings).is_ok_and(|name| name.is_taken());
    if !sidecar.chunks.as_ref().is_none_or(is_served) {
        return None;
    }
    let connection = Name::new(sidecar, &programs.names, flags).ok()?.find().ok()?;
    // The copy is closed before the first request: it would keep the connection of a process that ends from ending.
    let mount = fuse::mount(&connection, &options(sidecar.format)).ok()?;
    Some(Layer { sidecar, mount, server: None, file_server: None })
}

/// Returns the name of the process that serves a layer's file in chunks.
fn name_of_file(sidecar: &Sidecar, settings: &Settings) -> io::Result<Name> {
    Name::new(sidecar, &settings.lazy.names, &[])
}

/// Returns the layer from a new squashfuse, which other programs can find if `found` is given.
fn started<'a>(
    sidecar: &'a Sidecar,
    settings: &Settings,
    found: bool,
    log: &Log,
) -> Result<Layer<'a>, LayerMountError> {
    let (programs, flags) = settings.server(sidecar.format);
    let start = || -> Result<Layer<'a>, FuseError> {
        let take = |name: io::Result<Name>| name.and_then(|name| name.take());
        let sockets = || -> io::Result<(OwnedFd, Option<OwnedFd>)> {
            let file = sidecar.chunks.as_ref().map(|_| take(name_of_file(sidecar, settings))).transpose()?;
            Ok((take(Name::new(sidecar, &programs.names, flags))?, file))
        };
        let sockets = found.then(sockets).and_then(|sockets| {
            sockets.inspect_err(|error| log.note(&format!("{} is not shared: {error}", sidecar.path.display()))).ok()
        });
        let (socket, file_socket) = sockets.map_or((None, None), |(socket, file)| (Some(socket), file));
        let connection = fuse::connection()?;
        let mount = fuse::mount(&connection, &options(sidecar.format)).map_err(FuseError::Mount)?;
        let served = sidecar
            .chunks
            .as_ref()
            .map(|chunks| chunks::serve(chunks, file_socket.as_ref(), settings, log))
            .transpose()?;
        let file = served.as_ref().map(|served| served.mount.as_fd());
        let path = file.map_or_else(|| sidecar.path.clone(), |file| format!("/dev/fd/{}", file.as_raw_fd()).into());
        let mut arguments = flags.to_vec();
        // In the foreground, so that the process is the one that was started; its mount tells when it serves.
        arguments.extend([OsString::from("-f"), path.into()]);
        let program = Program {
            programs,
            arguments: &arguments,
            directory: "/",
            socket: socket.as_ref().map(AsFd::as_fd),
            inherited: file.as_slice(),
            connected: Connected::Argument,
        };
        let server = fuse::start(program, &connection)?;
        Ok(Layer { sidecar, mount, server: Some(server), file_server: served.map(|served| served.server) })
    };
    start().map_err(|cause| LayerMountError::Server { path: sidecar.path.clone(), cause })
}

/// Waits until every layer answers.
fn wait(layers: &mut [Layer<'_>], settings: &Settings, log: &Log) -> Result<(), LayerMountError> {
    fault::point();
    let timeout = settings.timeout;
    let mut answers = ask(layers)?;
    let mut left = layers;
    while let Some((layer, others)) = left.split_first_mut() {
        let answer = answers.recv_timeout(timeout);
        let path = layer.sidecar.path.clone();
        let file_server = layer.file_server.take();
        match (answer, layer.server.take()) {
            (Ok(Ok(())), _) => {}
            (Ok(Err(cause)), Some(server)) => {
                let reason = server.why_not(timeout);
                // Without the file squashfuse has nothing to read.
                let reason = file_server.and_then(|server| server.why_not(timeout)).or(reason);
                return Err(match reason {
                    Some(cause) => LayerMountError::Server { path, cause },
                    None => LayerMountError::Dead { path, cause },
                });
            }
            (Err(_), Some(server)) => {
                // First: nothing else ends a read of the other one that waits for it.
                let hangs = file_server.map(|server| server.give_up(timeout));
                let cause = server.give_up(timeout);
                return Err(LayerMountError::Server { path, cause: hangs.unwrap_or(cause) });
            }
            (trouble, None) => {
                let silent = || format!("no answer within {} s", timeout.as_secs());
                let trouble =
                    trouble.map_or_else(|_| silent(), |error| error.map_or_else(|e| e.to_string(), |()| silent()));
                log.note(&format!("the squashfuse that serves {} already is not used: {trouble}", path.display()));
                *layer = started(layer.sidecar, settings, false, log)?;
                wait(std::slice::from_mut(layer), settings, log)?;
                // The thread may still wait for the one that does not answer.
                answers = ask(others)?;
            }
        }
        left = others;
    }
    Ok(())
}

/// Sends each layer a first request and reports the results in order. A request blocks as long as its squashfuse
/// lives, so a thread does this; the thread ends with this process.
fn ask(layers: &[Layer<'_>]) -> Result<Receiver<io::Result<()>>, LayerMountError> {
    let (sender, receiver) = mpsc::channel();
    let copy = |layer: &Layer<'_>| {
        let path = layer.path().to_owned();
        layer.mount.try_clone().map_err(|cause| LayerMountError::Dead { path, cause })
    };
    let mounts = layers.iter().map(copy).collect::<Result<Vec<OwnedFd>, _>>()?;
    thread::spawn(move || {
        for mount in mounts {
            // The first needs what the file holds, unless others asked before; the second is answered by squashfuse each
            // time, but by some versions not at all if the file is damaged.
            let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
            let answer =
                statx(&mount, "", flags, StatxFlags::BASIC_STATS).map(drop).and_then(|()| fstatfs(&mount).map(drop));
            if sender.send(answer.map_err(io::Error::from)).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}
