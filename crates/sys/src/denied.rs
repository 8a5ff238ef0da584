//! System calls that this process denied itself (`seccomp(2)`, `SECCOMP_RET_TRAP`): each fails with `EPERM`, and is recorded.
//!
//! A filter can make calls fail by itself, but then the call's number is lost. With the trap the kernel sends `SIGSYS` instead, with
//! the registers as before the call; the handler records the call's number and stores the error as the call's result.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whether the handler knows this machine's registers.
pub const SUPPORTED: bool = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));

/// A bit for each number below 1024; Linux has some 470 calls.
static SEEN: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];

/// Makes trapped calls fail with `EPERM` in all current and later threads.
///
/// # Errors
/// Those of `sigaction(2)`.
pub fn make_trapped_calls_fail() -> io::Result<()> {
    if !SUPPORTED {
        // The filter makes calls fail by itself.
        return Ok(());
    }
    // SAFETY: all zeros is a valid sigaction. The handler only touches atomics and the registers of its own frame.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Returns the numbers of the calls that were denied since the last call of this function.
#[must_use]
pub fn take() -> Vec<usize> {
    let mut numbers = Vec::new();
    for (word, seen) in SEEN.iter().enumerate() {
        let bits = if seen.load(Ordering::Relaxed) == 0 { 0 } else { seen.swap(0, Ordering::Relaxed) };
        numbers.extend((0..64).filter(|bit| bits >> bit & 1 == 1).map(|bit| word * 64 + bit));
    }
    numbers
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn note(number: u64) {
    let number = usize::try_from(number).unwrap_or(usize::MAX);
    if let Some(seen) = SEEN.get(number / 64) {
        seen.fetch_or(1 << (number % 64), Ordering::Relaxed);
    }
}

#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(unused_variables))]
extern "C" fn handle(_signal: libc::c_int, _information: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: for a handler with SA_SIGINFO the kernel passes the interrupted thread's context, which nobody else uses.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext };
    #[cfg(target_arch = "x86_64")]
    {
        let Some(accumulator) = registers.gregs.get_mut(libc::REG_RAX as usize) else { return };
        // A tracer that fails calls (strace(1), --inject) gives them the number -1, which is on no list, and leaves its own error.
        if let Ok(number) = u64::try_from(*accumulator) {
            note(number);
            *accumulator = -i64::from(libc::EPERM);
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        note(registers.regs[8]);
        registers.regs[0] = u64::from_ne_bytes((-i64::from(libc::EPERM)).to_ne_bytes());
    }
}
