//! The arrival of another worker where nothing keeps the socket between two workers. The kernel tells of a new socket (inotify(7)), so
//! nothing has to look for one.

use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
use rustix::io::Errno;

/// How long a socket must not have changed: it has a name before it listens.
const SETTLE_TIMEOUT: Duration = Duration::from_millis(50);

/// Tells of new sockets at a path.
#[derive(Debug)]
pub(super) struct Arrivals {
    queue: OwnedFd,
    name: OsString,
}

impl Arrivals {
    /// Begins with those that arrive from now on.
    ///
    /// # Errors
    /// The directory cannot be watched.
    pub(super) fn of(socket: &Path) -> io::Result<Self> {
        let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let queue = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let events = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ATTRIB | WatchFlags::ONLYDIR;
        add_watch(&queue, directory, events)?;
        Ok(Self { queue, name: name.to_owned() })
    }

    /// Waits for a socket, at most for `timeout` or until `ended` is readable. Returns whether one has arrived.
    pub(super) fn wait(&self, ended: BorrowedFd<'_>, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut has_arrived = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = if has_arrived { left.min(SETTLE_TIMEOUT) } else { left };
            let timeout = Timespec::try_from(left).unwrap_or_default();
            let mut events = [PollFd::new(&self.queue, PollFlags::IN), PollFd::from_borrowed_fd(ended, PollFlags::IN)];
            match poll(&mut events, Some(&timeout)) {
                Ok(0) => return has_arrived,
                Ok(_) if events.get(1).is_some_and(|ended| !ended.revents().is_empty()) => return false,
                Ok(_) => has_arrived |= self.names_socket(),
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Reads the events that are there. Returns whether any is about the socket.
    fn names_socket(&self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.queue, &mut buffer);
        let mut found = false;
        while let Ok(event) = reader.next() {
            found |= event.file_name().is_some_and(|name| OsStr::from_bytes(name.to_bytes()) == self.name);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn a_new_socket_is_told_of_and_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let arrivals = Arrivals::of(&socket).unwrap();
        let ended = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        assert!(!arrivals.wait(ended.as_fd(), Duration::ZERO));
        thread::scope(|scope| {
            let waits = scope.spawn(|| arrivals.wait(ended.as_fd(), Duration::from_secs(60)));
            let _other = UnixListener::bind(directory.path().join("other")).unwrap();
            let _socket = UnixListener::bind(&socket).unwrap();
            assert!(waits.join().unwrap());
            let waits = scope.spawn(|| arrivals.wait(ended.as_fd(), Duration::from_secs(60)));
            rustix::io::write(&ended, &1_u64.to_ne_bytes()).unwrap();
            assert!(!waits.join().unwrap());
        });
        assert!(Arrivals::of(Path::new("/nonexistent/socket")).is_err());
    }
}
