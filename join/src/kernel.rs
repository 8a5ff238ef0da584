//! System calls, each as its manual page has it (section 2), with types that cannot be used wrongly.

#![allow(unsafe_code, reason = "there is no library below that could be safe")]

use core::ffi::{CStr, c_char};
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ptr::null;

pub(crate) use syscalls::Errno;
use syscalls::{Sysno, syscall};

/// Flags of open(2), which the kernel gives the same values on the processors that [`crate::start`] knows, but for `O_DIRECTORY`, which is
/// not needed: what is no directory has no file in it.
const O_RDWR: usize = 0o2;
const O_CREAT: usize = 0o100;
const O_CLOEXEC: usize = 0o2_000_000;
const O_PATH: usize = 0o10_000_000;
/// In place of a directory: the process's own.
const AT_FDCWD: usize = 0_usize.wrapping_sub(100);
/// The path is empty, and the descriptor is meant.
const AT_EMPTY_PATH: usize = 0x1000;
const PROT_READ_WRITE: usize = 0x3;
const MAP_PRIVATE_ANONYMOUS: usize = 0x22;
/// Namespaces of users and of mounts.
const CLONE_NEWUSER_NEWNS: usize = 0x1000_0000 | 0x0002_0000;
const PR_CAPBSET_DROP: usize = 24;
const F_SETFD: usize = 2;
const LOCK_SH: usize = 1;
const LOCK_EX_NB: usize = 2 | 4;
/// Standard error.
const STDERR: usize = 2;

/// The arguments or the variables of this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strings(&'static [*const c_char]);

impl Strings {
    /// The arguments and the variables.
    ///
    /// # Safety
    /// `stack` is where the kernel has put the number of arguments, the arguments and the variables.
    pub(crate) unsafe fn of_process(stack: *const usize) -> (Self, Self) {
        // SAFETY: the caller's promise; each list ends with a null pointer.
        unsafe {
            let count = stack.read();
            let arguments: *const *const c_char = stack.add(1).cast();
            let variables = arguments.add(count + 1);
            let mut length = 0;
            while !variables.add(length).read().is_null() {
                length += 1;
            }
            let slice = |start, length| core::slice::from_raw_parts(start, length);
            (Self(slice(arguments, count)), Self(slice(variables, length)))
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// One of them.
    pub(crate) fn get(&self, at: usize) -> Option<&'static CStr> {
        // SAFETY: the kernel has ended each with a null byte, and they stay as long as the process.
        self.0.get(at).map(|text| unsafe { CStr::from_ptr(*text) })
    }

    /// All of them.
    pub(crate) fn iter(self) -> impl Iterator<Item = &'static CStr> {
        (0..self.count()).filter_map(move |at| self.get(at))
    }

    /// All of them as `execve(2)` takes them.
    pub(crate) fn vector(&self) -> Option<Vector<'static>> {
        Vector::new(self.iter(), self.count())
    }
}

/// Memory for `count` values, which is not given back. `None` without memory.
pub(crate) fn memory<'m, T: Copy + 'm>(count: usize, value: T) -> Option<&'m mut [T]> {
    let size = count.checked_mul(size_of::<T>()).filter(|&size| size > 0 && align_of::<T>() <= 4096)?;
    let nowhere = -1_isize;
    // SAFETY: new memory, which nothing else refers to.
    let start = unsafe { syscall!(Sysno::mmap, 0, size, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, nowhere, 0) }.ok()?;
    let start = core::ptr::with_exposed_provenance_mut::<T>(start);
    for at in 0..count {
        // SAFETY: inside the memory, whose pages are aligned for any type of at most their size.
        unsafe { start.add(at).write(value) };
    }
    // SAFETY: all values are written, and no other reference exists.
    Some(unsafe { core::slice::from_raw_parts_mut(start, count) })
}

/// Strings as `execve(2)` takes them.
#[derive(Debug)]
pub(crate) struct Vector<'a> {
    /// Pointers to strings, and a null pointer as the last.
    pointers: &'static mut [*const c_char],
    strings: PhantomData<&'a CStr>,
}

impl<'a> Vector<'a> {
    /// These strings, of which there are no more than `room`. `None` if there are, or without memory.
    pub(crate) fn new(strings: impl Iterator<Item = &'a CStr>, room: usize) -> Option<Self> {
        let pointers = memory(room.checked_add(1)?, null())?;
        for (at, text) in strings.enumerate() {
            *pointers.get_mut(..room)?.get_mut(at)? = text.as_ptr();
        }
        Some(Self { pointers, strings: PhantomData })
    }

    /// The same with another first string.
    pub(crate) fn with_first<'b>(&'b mut self, first: &'b CStr) -> &'b Self {
        if let Some(place) = self.pointers.first_mut().filter(|place| !place.is_null()) {
            *place = first.as_ptr();
        }
        self
    }

    fn address(&self) -> usize {
        self.pointers.as_ptr().expose_provenance()
    }
}

fn address(text: &CStr) -> usize {
    text.as_ptr().expose_provenance()
}

/// A descriptor that is closed when it is dropped, and when a program is executed.
#[derive(Debug)]
pub(crate) struct Descriptor(usize);

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: nothing else has the number.
        let _ = unsafe { syscall!(Sysno::close, self.0) };
    }
}

impl Descriptor {
    /// Leaves the descriptor open for the programs that are executed, and returns its number.
    pub(crate) fn keep(self) -> Result<u32, Errno> {
        let kept = ManuallyDrop::new(self);
        // SAFETY: changes the descriptor's flag alone.
        unsafe { syscall!(Sysno::fcntl, kept.0, F_SETFD, 0) }?;
        u32::try_from(kept.0).map_err(|_| Errno::EBADF)
    }

    fn open(directory: Option<&Self>, path: &CStr, flags: usize, mode: usize) -> Result<Self, Errno> {
        let directory = directory.map_or(AT_FDCWD, |directory| directory.0);
        // SAFETY: the path is read alone.
        unsafe { syscall!(Sysno::openat, directory, address(path), flags | O_CLOEXEC, mode) }.map(Self)
    }

    /// Opens a path as no more than a place.
    pub(crate) fn of_place(path: &CStr) -> Result<Self, Errno> {
        Self::open(None, path, O_PATH, 0)
    }

    /// Opens a file for reading, in a directory if one is given.
    pub(crate) fn of_file(directory: Option<&Self>, path: &CStr) -> Result<Self, Errno> {
        Self::open(directory, path, 0, 0)
    }

    /// Opens a file that only the user may use, and creates a missing file.
    pub(crate) fn of_own_file(directory: &Self, path: &CStr) -> Result<Self, Errno> {
        Self::open(Some(directory), path, O_RDWR | O_CREAT, 0o600)
    }

    /// Opens a process.
    pub(crate) fn of_process(number: i32) -> Result<Self, Errno> {
        // SAFETY: has no pointers.
        unsafe { syscall!(Sysno::pidfd_open, number, 0) }.map(Self)
    }

    /// Reads up to the end, or until `memory` is full, and returns what was read.
    pub(crate) fn read<'m>(&self, memory: &'m mut [u8]) -> Result<&'m [u8], Errno> {
        let mut length = 0;
        while let Some(rest) = memory.get_mut(length..).filter(|rest| !rest.is_empty()) {
            let start = rest.as_mut_ptr().expose_provenance();
            // SAFETY: the kernel writes into the rest of the memory alone.
            match unsafe { syscall!(Sysno::read, self.0, start, rest.len()) }? {
                0 => break,
                more => length += more,
            }
        }
        Ok(memory.get(..length).unwrap_or_default())
    }

    /// Takes the lock of a file, unless others have it. `EWOULDBLOCK`: others have it.
    pub(crate) fn lock(&self) -> Result<(), Errno> {
        // SAFETY: has no pointers.
        unsafe { syscall!(Sysno::flock, self.0, LOCK_EX_NB) }.map(drop)
    }

    /// Waits until nobody has the lock for itself.
    pub(crate) fn wait(&self) -> Result<(), Errno> {
        // SAFETY: has no pointers.
        unsafe { syscall!(Sysno::flock, self.0, LOCK_SH) }.map(drop)
    }

    /// Moves this process into the namespaces of users and of mounts of a process.
    pub(crate) fn enter(&self) -> Result<(), Errno> {
        // SAFETY: has no pointers; nothing here depends on what paths mean.
        unsafe { syscall!(Sysno::setns, self.0, CLONE_NEWUSER_NEWNS) }.map(drop)
    }
}

/// Drops a capability, by its number, for good. `EINVAL`: the kernel does not know it.
pub(crate) fn drop_capability(number: u32) -> Result<(), Errno> {
    // SAFETY: has no pointers.
    unsafe { syscall!(Sysno::prctl, PR_CAPBSET_DROP, number, 0, 0, 0) }.map(drop)
}

/// Changes the directory of this process.
pub(crate) fn change_directory(path: &CStr) -> Result<(), Errno> {
    // SAFETY: the path is read alone.
    unsafe { syscall!(Sysno::chdir, address(path)) }.map(drop)
}

/// The directory of this process.
pub(crate) fn directory(memory: &mut [u8]) -> Option<&CStr> {
    // SAFETY: the kernel writes into the memory alone, and a null byte at the end.
    unsafe { syscall!(Sysno::getcwd, memory.as_mut_ptr().expose_provenance(), memory.len()) }.ok()?;
    // Not of the form "(unreachable)/…".
    CStr::from_bytes_until_nul(memory).ok().filter(|path| path.to_bytes().starts_with(b"/"))
}

/// Becomes a program. Returns only what kept it from that.
pub(crate) fn execute(path: &CStr, arguments: &Vector<'_>, variables: &Vector<'_>) -> Errno {
    // SAFETY: the kernel reads the strings, which both lists keep, and nothing is left of this process then.
    match unsafe { syscall!(Sysno::execve, address(path), arguments.address(), variables.address()) } {
        Ok(_) => Errno::ENOEXEC,
        Err(errno) => errno,
    }
}

/// Becomes a program that is open. Returns only what kept it from that.
pub(crate) fn execute_open(program: &Descriptor, arguments: &Vector<'_>, variables: &Vector<'_>) -> Errno {
    let (program, path) = (program.0, address(c""));
    let (arguments, variables) = (arguments.address(), variables.address());
    // SAFETY: as above.
    match unsafe { syscall!(Sysno::execveat, program, path, arguments, variables, AT_EMPTY_PATH) } {
        Ok(_) => Errno::ENOEXEC,
        Err(errno) => errno,
    }
}

/// Writes a message to standard error.
pub(crate) fn tell(message: &str) {
    let start = message.as_ptr().expose_provenance();
    // SAFETY: the message is read alone.
    let _ = unsafe { syscall!(Sysno::write, STDERR, start, message.len()) };
}

/// Ends this process.
pub(crate) fn end(code: u8) -> ! {
    loop {
        // SAFETY: has no pointers, and does not return.
        let _ = unsafe { syscall!(Sysno::exit_group, code) };
    }
}
