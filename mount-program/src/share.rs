//! One squashfuse for each layer and user on a node: finding the process that serves a layer already.
//!
//! A squashfuse that can be shared has a listening socket whose name identifies the layer and the user
//! namespace. A program that connects gets the process's number, takes a copy of its FUSE connection (`pidfd_getfd(2)`) and makes
//! another mount of it. The process lives as long as the overlays over its mounts: when the last overlay is unmounted, the process
//! ends, and its name with it. There is no file, no directory and no list that could be wrong. If the kernel does not allow one of
//! these calls, each container has its own processes.
//!
//! All users can use any socket name. A name that another user has taken is not used: then there is no sharing.

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsString;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use parallax_sys::process::Process;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept, bind, connect, getsockname, socket_with,
};
use rustix::process::{PidfdGetfdFlags, geteuid, pidfd_getfd};

use crate::layer::Sidecar;

/// Identity of a served layer, as the name of a socket.
#[derive(Debug)]
pub(crate) struct Name(SocketAddrUnix);

/// Lock held while squashfuse processes are started, so that one of several programs that need the same layer starts its process.
#[derive(Debug)]
pub(crate) struct Turn(#[expect(dead_code, reason = "held for what closing it does")] OwnedFd);

impl Name {
    /// Returns the name for a layer of a store and a command line. A file that is replaced or written gets another name.
    /// A file in two stores has a name for each: the processes of a step end with the step, and another step's containers, even if
    /// of the same user and in the same user namespace, must not lose their layers then.
    pub(crate) fn new(sidecar: &Sidecar, programs: &[OsString], flags: &[OsString]) -> io::Result<Self> {
        let namespace = fs::metadata("/proc/self/ns/user")?.ino();
        let mut hasher = DefaultHasher::new();
        (programs, flags).hash(&mut hasher);
        let crate::layer::Stamp { device, inode, size, changed } = sidecar.stamp;
        let command = hasher.finish();
        let store = sidecar.store_device;
        let text = format!("parallax-mp/{namespace:x}/{store:x}/{device:x}.{inode:x}.{size:x}.{changed:x}/{command:x}");
        Ok(Self(SocketAddrUnix::new_abstract_name(text.as_bytes())?))
    }

    /// Returns a copy of the FUSE connection of the process that serves this layer.
    ///
    /// # Errors
    /// `ECONNREFUSED` without such a process; `EPERM` if the name belongs to another user; others if the kernel does not allow it.
    pub(crate) fn find(&self) -> io::Result<OwnedFd> {
        let socket = stream_socket()?;
        connect(&socket, &self.0)?;
        let peer = socket_peercred(&socket)?;
        if peer.uid != geteuid() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let process = Process::open(peer.pid.as_raw_nonzero().get())?;
        let (mut connection, mut is_it) = (None, false);
        for entry in fs::read_dir(format!("/proc/{}/fd", process.pid()))? {
            let entry = entry?;
            let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else { continue };
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            if target == Path::new("/dev/fuse") {
                connection = Some(number);
            } else if target.as_os_str().as_encoded_bytes().starts_with(b"socket:") {
                is_it |= self.is_held(&pidfd_getfd(&process, number, PidfdGetfdFlags::empty())?);
            }
        }
        // Its number may be another process's by now; that one has not this name.
        match connection {
            Some(number) if is_it => Ok(pidfd_getfd(&process, number, PidfdGetfdFlags::empty())?),
            _ => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    /// Whether a process of this user has the name. Nobody accepts the connection.
    pub(crate) fn is_taken(&self) -> bool {
        let connected = || -> io::Result<bool> {
            let socket = stream_socket()?;
            connect(&socket, &self.0)?;
            Ok(socket_peercred(&socket)?.uid == geteuid())
        };
        connected().unwrap_or_else(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether this socket has the name. If so, accepts one connection, so that the socket's queue does not fill.
    fn is_held(&self, socket: &OwnedFd) -> bool {
        let held = getsockname(socket)
            .is_ok_and(|address| SocketAddrUnix::try_from(address).is_ok_and(|address| address == self.0));
        if held {
            let _ = accept(socket);
        }
        held
    }

    /// Takes the name, for a process that is about to be started.
    ///
    /// # Errors
    /// `EADDRINUSE` if the name is taken.
    pub(crate) fn take(&self) -> io::Result<OwnedFd> {
        let socket = stream_socket()?;
        bind(&socket, &self.0)?;
        Ok(socket)
    }
}

/// Makes the descriptor non-blocking, and thereby the copies that other processes get.
fn stream_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// Waits until no other process starts a squashfuse in this user namespace.
///
/// The lock is on the user namespace itself, which only its user can open. Everybody can open the initial one, so root's lock is on
/// the current directory: Podman's own.
///
/// # Errors
/// The kernel does not lock such a file.
pub(crate) fn turn(first_user_namespace: bool) -> io::Result<Turn> {
    let path = if first_user_namespace { "." } else { "/proc/self/ns/user" };
    let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    flock(file.as_fd(), FlockOperation::LockExclusive)?;
    Ok(Turn(file))
}
