//! The agent's socket and its signals.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::net::sockopt::{socket_acceptconn, socket_domain};
use rustix::net::{AddressFamily, listen as listen_again};

/// Maximum number of connections that wait to be accepted; the kernel's limit (`somaxconn`) applies.
const BACKLOG: i32 = 4096;

/// The agent's socket: the one that systemd opened, or a new one in place of what an earlier agent left. Only root can connect
/// to it.
///
/// # Errors
/// Those of the system calls; systemd opened anything but one listening socket at `path`.
pub fn listen(opened: Vec<OwnedFd>, path: &Path) -> io::Result<UnixListener> {
    let listener = match <[OwnedFd; 1]>::try_from(opened) {
        Ok([socket]) => checked(socket, path)?,
        Err(none) if none.is_empty() => bind(path)?,
        Err(_) => return Err(io::Error::other("systemd opened more than one socket")),
    };
    listener.set_nonblocking(true)?;
    listen_again(&listener, BACKLOG)?;
    Ok(listener)
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Only root may connect, from the first moment on.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    listener
}

/// A socket that systemd opened, if it is what the configuration says.
fn checked(socket: OwnedFd, path: &Path) -> io::Result<UnixListener> {
    let wrong = |what: &str| Err(io::Error::other(format!("the socket that systemd opened {what}")));
    if socket_domain(&socket)? != AddressFamily::UNIX || !socket_acceptconn(&socket)? {
        return wrong("is not a listening socket of this node");
    }
    let listener = UnixListener::from(socket);
    if listener.local_addr()?.as_pathname() != Some(path) {
        return wrong("is not where the configuration says");
    }
    if std::fs::metadata(path)?.permissions().mode() & 0o777 != 0o600 {
        return wrong("is not closed to others than root; the unit needs SocketMode=0600");
    }
    Ok(listener)
}

/// A descriptor from which the signals meant for the agent are read. They do nothing else from now on, in all threads that this
/// one starts.
///
/// # Errors
/// Those of the system calls.
pub fn signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        set.add(signal);
    }
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_socket_takes_an_old_ones_place_and_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        for _ in 0..2 {
            listen(Vec::new(), &path).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_socket_from_systemd_must_be_the_configured_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let made = || -> OwnedFd {
            let _ = std::fs::remove_file(&path);
            UnixListener::bind(&path).unwrap().into()
        };
        let error = listen(vec![made()], &path).unwrap_err().to_string();
        assert!(error.contains("SocketMode=0600"), "{error}");
        let private = made();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        listen(vec![private], &path).unwrap();
        let error = listen(vec![made()], Path::new("/elsewhere")).unwrap_err().to_string();
        assert!(error.contains("not where the configuration says"), "{error}");
        let pair = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(listen(vec![pair.0.into()], &path).is_err());
        assert!(listen(vec![made(), made()], &path).is_err());
    }
}
