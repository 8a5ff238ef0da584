//! The device of a file that is served by FUSE.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use parallax_sys::mount::DetachedMount;
use parallax_sys::shared_slots::{HEAD, SharedSlots};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use crate::request::{Kind, Request, header};

/// Size of the buffer in bytes with which the device is read (`FUSE_MIN_READ_BUFFER`).
const BUFFER: usize = 8192;

/// The content of a file that is served.
pub trait Content: Sync {
    /// Returns the size of the file in bytes.
    fn size(&self) -> u64;

    /// Reads from the file: all that is asked for, or less at its end. Returns the number of bytes.
    ///
    /// # Errors
    /// The reader gets `EIO`.
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// Content whose errors are noted in the slots.
struct Noted<'a> {
    content: &'a dyn Content,
    slots: &'a SharedSlots,
}

impl Content for Noted<'_> {
    fn size(&self) -> u64 {
        self.content.size()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.content.read(buffer, offset).inspect_err(|_| self.slots.set_failed())
    }
}

/// `/dev/fuse`, open; all copies of one descriptor serve one file.
#[derive(Debug)]
pub struct Device(OwnedFd);

impl Device {
    /// Opens a device that serves nothing yet.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub fn open() -> io::Result<Self> {
        Ok(Self(OpenOptions::new().read(true).write(true).open("/dev/fuse")?.into()))
    }

    /// Makes the file, and opens it. What the kernel asks for meanwhile is answered here; reads are not.
    ///
    /// # Errors
    /// Those of the system calls; `EPERM` without `CAP_SYS_ADMIN`.
    pub fn make_file(&self, size: u64) -> io::Result<File> {
        let mount = DetachedMount::fuse_file(self.0.as_fd())?;
        let end = eventfd(0, EventfdFlags::CLOEXEC)?;
        std::thread::scope(|scope| {
            let server = std::thread::Builder::new().name("fuse file".to_owned());
            let server = server.spawn_scoped(scope, || self.serve_until(end.as_fd(), size))?;
            // Linux before 5.16 waits for an answer when a file is closed, until one was that it need not. Later nobody may answer.
            drop(mount.open_root_file());
            // The loop driver asks for the size that the kernel knows, so it has to know.
            let opened = mount.open_root_file().and_then(|file| file.metadata().map(|metadata| (file, metadata.len())));
            rustix::io::write(&end, &1_u64.to_ne_bytes())?;
            let served = server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let (file, found) = opened?;
            served?;
            if found == size { Ok(file) } else { Err(io::ErrorKind::InvalidData.into()) }
        })
    }

    fn serve_until(&self, end: BorrowedFd<'_>, size: u64) -> io::Result<()> {
        let mut buffer = [0; BUFFER];
        loop {
            let mut events = [PollFd::new(&self.0, PollFlags::IN), PollFd::from_borrowed_fd(end, PollFlags::IN)];
            match poll(&mut events, None) {
                Err(Errno::INTR) => continue,
                polled => polled?,
            };
            if !events[1].revents().is_empty() {
                return Ok(());
            }
            let length = rustix::io::read(&self.0, &mut buffer)?;
            if let Some(request) = buffer.get(..length).and_then(Request::parse) {
                self.answer(&request, size)?;
            }
        }
    }

    fn answer(&self, request: &Request, size: u64) -> io::Result<()> {
        request.answer(size).map_or(Ok(()), |answer| self.write(&[IoSlice::new(&answer)]))
    }

    /// Serves the file with one slot: what is in the slot first, then what the kernel asks for. Returns when the file is used by nothing any
    /// more. Before a reader gets an error, that is noted in the slots.
    ///
    /// # Errors
    /// The device cannot be read.
    pub fn serve(&self, slots: &SharedSlots, number: usize, content: &dyn Content) -> io::Result<()> {
        let mut buffer = Vec::new();
        let content = &Noted { content, slots };
        loop {
            self.serve_request(&bytes(slots.head(number)), content, &mut buffer)?;
            slots.clear(number);
            match slots.read_from(number, self.0.as_fd()) {
                Ok(_) => {}
                Err(error) if is_over(&error) => return Ok(()),
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Serves the file as [`Device::serve`], without a slot.
    ///
    /// # Errors
    /// The device cannot be read.
    pub fn serve_without_slot(&self, content: &dyn Content) -> io::Result<()> {
        let mut buffer = Vec::new();
        let mut request = [0; BUFFER];
        loop {
            match rustix::io::read(&self.0, &mut request) {
                Ok(length) => {
                    self.serve_request(request.get(..length).unwrap_or_default(), content, &mut buffer)?;
                }
                Err(error) if is_over(&error.into()) => return Ok(()),
                Err(error) if is_passing(&error.into()) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Answers one request, if there is one in `bytes`. One that was answered before is ignored by the kernel.
    ///
    /// # Errors
    /// The device cannot be written.
    pub fn serve_request(&self, bytes: &[u8], content: &dyn Content, buffer: &mut Vec<u8>) -> io::Result<()> {
        let Some(request) = Request::parse(bytes) else { return Ok(()) };
        let Kind::Read { offset, size } = request.kind else { return self.answer(&request, content.size()) };
        buffer.resize(usize::try_from(size).unwrap_or_default(), 0);
        match content.read(buffer, offset) {
            Ok(length) => {
                let body = buffer.get(..length).unwrap_or_default();
                self.write(&[IoSlice::new(&header(request.unique, 0, body.len())), IoSlice::new(body)])
            }
            Err(_) => self.write(&[IoSlice::new(&request.failure())]),
        }
    }

    fn write(&self, answer: &[IoSlice<'_>]) -> io::Result<()> {
        match rustix::io::writev(&self.0, answer) {
            // The request was answered already, its reader was killed, or the file is no longer used.
            Err(Errno::NOENT | Errno::NODEV | Errno::INTR) => Ok(()),
            written => written.map(drop).map_err(Into::into),
        }
    }

    /// Returns another descriptor of the device.
    ///
    /// # Errors
    /// Those of `dup(2)`.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }
}

impl From<OwnedFd> for Device {
    fn from(device: OwnedFd) -> Self {
        Self(device)
    }
}

impl From<Device> for OwnedFd {
    fn from(device: Device) -> Self {
        device.0
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Returns the bytes of a slot's head.
pub(crate) fn bytes(head: [u64; HEAD]) -> Vec<u8> {
    head.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Whether the file is used by nothing any more.
fn is_over(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NODEV.raw_os_error())
}

/// Whether the next read may succeed: the request was withdrawn, or a signal came.
fn is_passing(error: &io::Error) -> bool {
    [Errno::NOENT, Errno::INTR, Errno::AGAIN].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
