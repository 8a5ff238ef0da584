//! Slots of memory that two processes share: one fills them, and the other reads what was in them after the first has ended.
//!
//! The memory is a file (`memfd_create(2)`) whose size is sealed: the other process can write anything there, but cannot make an
//! access fail.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Size of a slot in bytes: a read from `/dev/fuse` asks for a buffer of this size at least (`FUSE_MIN_READ_BUFFER`).
pub const SLOT: usize = 8192;
/// Number of 64-bit words of a slot that [`SharedSlots::head`] returns.
pub const HEAD: usize = 10;
/// The word of the first slot that says whether a reader got an error. No request is so long.
const FAILED: usize = SLOT / size_of::<u64>() - 1;
/// Maximum number of slots.
const MAX_SLOTS: usize = 256;

/// Slots of [`SLOT`] bytes in a file in memory.
#[derive(Debug)]
pub struct SharedSlots {
    file: OwnedFd,
    memory: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the memory is mapped for as long as the value lives, and is accessed by atomic operations and by the kernel only.
unsafe impl Send for SharedSlots {}
// SAFETY: as above.
unsafe impl Sync for SharedSlots {}

impl SharedSlots {
    /// Makes `count` empty slots, at most 256.
    ///
    /// # Errors
    /// Those of `memfd_create(2)` and `mmap(2)`.
    pub fn new(count: usize) -> io::Result<Self> {
        let file = memfd_create("parallax-requests", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, (count.min(MAX_SLOTS) * SLOT) as u64)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Self::of_file(file)
    }

    /// Maps the slots that another process made.
    ///
    /// # Errors
    /// `InvalidData` for a file that is not one of [`SharedSlots::new`]; those of `mmap(2)`.
    pub fn of_file(file: OwnedFd) -> io::Result<Self> {
        let size = usize::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(usize::MAX);
        let seals = fcntl_get_seals(&file)?;
        if size == 0 || size % SLOT != 0 || size / SLOT > MAX_SLOTS || !seals.contains(SealFlags::SHRINK) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // SAFETY: a new mapping at an address that the kernel chooses.
        let memory =
            unsafe { mmap(ptr::null_mut(), size, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0)? };
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let slots = Self { file, memory, count: size / SLOT };
        // Present from now on: a process that is killed while the kernel writes there must not wait for a page.
        for word in (0..slots.count).flat_map(|number| slots.words(number).step_by(512)) {
            word.fetch_or(0, Ordering::Relaxed);
        }
        Ok(slots)
    }

    /// Returns the number of slots.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Reads from a descriptor straight into a slot. Returns the number of bytes.
    ///
    /// # Errors
    /// Those of `read(2)`; `InvalidInput` if there is no such slot.
    pub fn read_from(&self, number: usize, descriptor: BorrowedFd<'_>) -> io::Result<usize> {
        if number >= self.count {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the slot is within the mapping, which lives through the call. Other accesses to it are atomic.
        let read = unsafe {
            let slot = self.memory.as_ptr().cast::<u8>().add(number * SLOT);
            libc::read(descriptor.as_raw_fd(), slot.cast(), SLOT)
        };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }

    /// Returns the first [`HEAD`] words of a slot; zeros if there is no such slot.
    #[must_use]
    pub fn head(&self, number: usize) -> [u64; HEAD] {
        let mut head = [0; HEAD];
        head.iter_mut().zip(self.words(number)).for_each(|(to, from)| *to = from.load(Ordering::Acquire));
        head
    }

    /// Fills the first [`HEAD`] words of a slot with zeros.
    pub fn clear(&self, number: usize) {
        self.words(number).take(HEAD).for_each(|word| word.store(0, Ordering::Release));
    }

    /// Notes that a reader got an error, for whoever has the slots next.
    pub fn set_failed(&self) {
        self.words(0).skip(FAILED).for_each(|word| word.store(1, Ordering::Release));
    }

    /// Returns whether a reader got an error.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.words(0).skip(FAILED).any(|word| word.load(Ordering::Acquire) != 0)
    }

    fn words(&self, number: usize) -> impl Iterator<Item = &AtomicU64> {
        let words = if number < self.count { SLOT / size_of::<u64>() } else { 0 };
        (0..words).map(move |word| {
            // SAFETY: within the mapping, which lives as long as `self`; a page is aligned, and all bytes are a valid number.
            unsafe { self.memory.add(number * (SLOT / size_of::<u64>()) + word).as_ref() }
        })
    }

    /// Returns the file in memory as one for another process.
    ///
    /// # Errors
    /// Those of `dup(2)`.
    pub fn file(&self) -> io::Result<File> {
        Ok(self.file.try_clone()?.into())
    }
}

impl AsFd for SharedSlots {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for SharedSlots {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and no reference to it outlives the value.
        let _ = unsafe { munmap(self.memory.as_ptr().cast(), self.count * SLOT) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_has_read_another_sees() {
        let slots = SharedSlots::new(3).unwrap();
        let other = SharedSlots::of_file(slots.file().unwrap().into()).unwrap();
        assert!(!other.has_failed());
        slots.set_failed();
        assert!(other.has_failed());
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::io::write(writer, &[1; 88]).unwrap();
        assert_eq!(slots.read_from(2, reader.as_fd()).unwrap(), 88);
        assert_eq!(other.head(2), [0x0101_0101_0101_0101; HEAD]);
        assert_eq!((other.head(1), other.head(3)), ([0; HEAD], [0; HEAD]));
        other.clear(2);
        assert_eq!(slots.head(2), [0; HEAD]);
        assert_eq!(slots.read_from(3, reader.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn the_other_side_cannot_take_the_memory_away() {
        let slots = SharedSlots::new(1).unwrap();
        assert!(slots.file().unwrap().set_len(0).is_err());
        for file in [tempfile::tempfile().unwrap(), memfd_create("x", MemfdFlags::CLOEXEC).unwrap().into()] {
            file.set_len(SLOT as u64).unwrap();
            assert!(SharedSlots::of_file(file.into()).is_err());
        }
    }
}
