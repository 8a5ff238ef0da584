//! Settings of malloc(3) for the memory that it keeps.

/// Makes all threads allocate from one arena. Must be called before another thread is started.
///
/// glibc gives threads that allocate at the same time separate arenas, up to eight for each of the machine's processors, and
/// keeps the memory freed in each (mallopt(3), `M_ARENA_MAX`). A daemon with many threads for a moment and none
/// most of the time would keep several times the memory of its peak. Other C libraries have no arenas; there
/// this function does nothing.
pub fn use_one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes two numbers and changes settings of the allocator under its own lock.
    // It fails only for a parameter that glibc does not know, and then everything is as it was.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
