//! How much memory malloc(3) keeps.

/// Has all threads allocate from one arena. To be called before there is another thread.
///
/// glibc gives threads that allocate at the same time arenas of their own, up to eight for each of the machine's processors, and
/// keeps in each what was freed there (mallopt(3), `M_ARENA_MAX`). A daemon with threads that are many for a moment and none
/// most of the time would keep the memory of its busiest moment, so many times. Other C libraries have no arenas; there
/// this does nothing.
pub fn use_one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes two numbers and changes settings of the allocator under its own lock.
    // It fails only for a parameter that glibc does not know, and then everything is as it was.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
