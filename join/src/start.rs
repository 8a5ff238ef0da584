//! From the kernel's first instruction to the task, and what the compiler takes for granted: functions on memory, and one for panics.

#![allow(unsafe_code, reason = "there is nothing below that could be safe")]

use core::arch::global_asm;
use core::panic::PanicInfo;

use crate::kernel::{Strings, end};
use crate::task;

// The stack pointer is aligned as functions expect it, and what it pointed to is their argument (System V ABI, "process initialization").
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {begin}",
    "ud2",
    begin = sym begin,
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, #0",
    "mov x30, #0",
    "mov x0, sp",
    "bl {begin}",
    "brk #1",
    begin = sym begin,
);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("parallax-join is not known to this processor; without it each task begins with the launcher");

/// Begins the program. `stack` is where the kernel has put the arguments.
extern "C" fn begin(stack: *const usize) -> ! {
    // SAFETY: the kernel has put the number of arguments there, the arguments, a null pointer, the variables and another null pointer; all
    // of them stay there as long as the process does.
    let (arguments, variables) = unsafe { Strings::of_process(stack) };
    task::run(arguments, variables)
}

/// No code here panics on purpose; the slice functions of `core` may.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    end(task::NO_CONTAINER)
}

// SAFETY, of these four: they are what C calls so, which is what the compiler calls; nothing else is linked that has them.
/// `memcpy(3)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    for at in 0..length {
        // SAFETY: both have this length.
        unsafe { to.add(at).write(from.add(at).read()) };
    }
    to
}

/// `memset(3)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, length: usize) -> *mut u8 {
    for at in 0..length {
        // SAFETY: the memory has this length.
        unsafe { to.add(at).write(value.to_le_bytes()[0]) };
    }
    to
}

/// `memcmp(3)`, and `bcmp(3)`, which is the same with less to say.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, length: usize) -> i32 {
    for at in 0..length {
        // SAFETY: both have this length.
        let (left, right) = unsafe { (left.add(at).read(), right.add(at).read()) };
        if left != right {
            return i32::from(left) - i32::from(right);
        }
    }
    0
}

/// `bcmp(3)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, length: usize) -> i32 {
    // SAFETY: as above.
    unsafe { memcmp(left, right, length) }
}

/// `strlen(3)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: the text ends with a null byte.
    while unsafe { text.add(length).read() } != 0 {
        length += 1;
    }
    length
}
