//! The part of the Slurm SPANK plugin that every job loads, in srun, sbatch, salloc and slurmstepd.
//!
//! For a job without an image the plugin only registers its options with Slurm. When Slurm calls back with one of them, the plugin
//! loads the part that does the work ([`step`]), and passes every hook on to that part. So a job without an image pays for
//! a few kilobytes, and contains almost no code that could fail.
//!
//! Code in this crate does not allocate, panic, wait, or start processes. The crate has no standard library, which would be most of
//! the code to relocate and page in, and does not use `slurm-spank`, the base of the other part, which needs the standard library:
//! this part needs a few functions of Slurm only ([`c`]).

#![no_std]
#![allow(unsafe_code, reason = "called by C and calls C; there is no safe layer without a standard library")]

use core::ffi::{c_char, c_int, c_uint};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use parallax_spank_hooks::{OPTIONS, OptionEvent, OptionText, StepHooks};

mod c;
mod inherited;
mod names;
mod other_plugin;
mod other_step;
mod step;

/// Return value that Slurm treats as a failure.
const FAILED: c_int = -1;

/// Whether the step has an image by an option that is not registered on this node.
static UNREGISTERED: AtomicBool = AtomicBool::new(false);

/// Number of the component of a heterogeneous job or step whose options Slurm is reading.
static COMPONENT: AtomicU32 = AtomicU32::new(0);

// SAFETY, here and below, of unmangled names: Slurm looks them up in this file alone (dlsym on its handle), and no other part
// of the plugin defines them.
/// Name of the plugin in Slurm.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "Slurm's name")]
pub static plugin_name: [u8; 9] = *b"parallax\0";
/// Type of the plugin.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "Slurm's name")]
pub static plugin_type: [u8; 6] = *b"spank\0";
/// Version of Slurm: a Slurm with another major or minor version does not load the plugin.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "Slurm's name")]
pub static plugin_version: c_uint = c::SLURM_VERSION_NUMBER;

/// Registers an option. Slurm copies it (`_spank_option_copy`, 23.11 to 26.05).
fn register(spank: c::spank_t, option: &OptionText) -> bool {
    let (arginfo, has_arg) = match option.value {
        Some(value) => (value.as_ptr().cast_mut(), 1),
        None => (core::ptr::null_mut(), 0),
    };
    let mut option = c::spank_option {
        name: option.name.as_ptr().cast_mut(),
        arginfo,
        usage: option.usage.as_ptr().cast_mut(),
        has_arg,
        val: option.option as c_int,
        cb: Some(take_option),
    };
    // SAFETY: the handle is Slurm's own, in the hook in which options are registered. Slurm only reads the strings.
    (unsafe { c::spank_option_register(spank, &raw mut option) }) == c::SUCCESS
}

/// Callback of Slurm for one of the options, or its variable.
extern "C" fn take_option(option: c_int, value: *const c_char, remote: c_int) -> c_int {
    match step::load() {
        Some(hooks) => {
            let source = inherited::source(option, value) as c_int;
            (hooks.option)(OptionEvent { option, value, source, component: COMPONENT.load(Relaxed) });
            0
        }
        // On a node the task fails, later: an error here would be no more than a line in the log.
        None if remote != 0 => 0,
        None => FAILED,
    }
}

/// Registers the options with Slurm. In srun, sbatch and salloc an error ends the program; on a node an error would drain the node.
#[unsafe(no_mangle)]
extern "C" fn slurm_spank_init(spank: c::spank_t, argc: c_int, argv: *const *const c_char) -> c_int {
    // SAFETY: it takes and changes nothing.
    let context = unsafe { c::spank_context() };
    let is_node = context == c::spank_context_S_CTX_REMOTE;
    if !is_node && !matches!(context, c::spank_context_S_CTX_LOCAL | c::spank_context_S_CTX_ALLOCATOR) {
        return 0;
    }
    if !is_node {
        inherited::drop_of_other_jobs(context == c::spank_context_S_CTX_LOCAL);
        inherited::drop_of_other_images();
        inherited::take_defaults();
    }
    let taken = OPTIONS.iter().all(|option| register(spank, option));
    let named = names::register(spank, argc, argv, is_node);
    if is_node {
        UNREGISTERED.store(names::has_unregistered_image(spank, !taken), Relaxed);
    }
    if (taken && named) || is_node { 0 } else { FAILED }
}

/// Passes the hook on; also if the step has an image by an option that is not registered on this node.
#[unsafe(no_mangle)]
extern "C" fn slurm_spank_init_post_opt(spank: c::spank_t, argc: c_int, argv: *const *const c_char) -> c_int {
    if step::loaded().is_none() && UNREGISTERED.load(Relaxed) {
        if let Some(hooks) = step::load() {
            (hooks.unregistered)();
        }
    }
    let result = step::loaded().map_or(0, |hooks| (hooks.init_post_opt)(spank.cast(), argc, argv));
    // Slurm comes here once for each component.
    COMPONENT.fetch_add(1, Relaxed);
    result
}

/// Passes the hook on. If the part for steps with an image cannot be loaded, the task fails: it must not run without its image.
#[unsafe(no_mangle)]
extern "C" fn slurm_spank_task_init(spank: c::spank_t, argc: c_int, argv: *const *const c_char) -> c_int {
    match step::loaded() {
        Some(hooks) => (hooks.task_init)(spank.cast(), argc, argv),
        None if step::is_missing() => {
            step::tell_that_it_is_missing();
            FAILED
        }
        None => 0,
    }
}

/// Removes inherited variables of another step, then passes the hook on: a step with an image gets its own variables.
#[unsafe(no_mangle)]
extern "C" fn slurm_spank_user_init(spank: c::spank_t, argc: c_int, argv: *const *const c_char) -> c_int {
    other_step::remove_variables(spank);
    step::loaded().map_or(0, |hooks| (hooks.user_init)(spank.cast(), argc, argv))
}

/// Required by the compiler; no code in this crate panics.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: it takes nothing and does not return.
    unsafe { c::abort() }
}

macro_rules! hand_on {
    ($($symbol:ident => $hook:ident),+ $(,)?) => {$(
        #[doc = concat!("Passes the hook `", stringify!($hook), "` on.")]
        #[unsafe(no_mangle)]
        extern "C" fn $symbol(spank: c::spank_t, argc: c_int, argv: *const *const c_char) -> c_int {
            step::loaded().map_or(0, |hooks: &StepHooks| (hooks.$hook)(spank.cast(), argc, argv))
        }
    )+};
}

hand_on! {
    slurm_spank_task_init_privileged => task_init_privileged,
    slurm_spank_exit => exit,
}
