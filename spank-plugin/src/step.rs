//! The plugin's part for steps with an image, loaded on demand.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering::Relaxed};

use parallax_spank_hooks::{FILE, SYMBOL, StepHooks};

use crate::c;

/// Hooks of the part; null until the part is loaded.
static HOOKS: AtomicPtr<StepHooks> = AtomicPtr::new(null_mut());
/// Whether loading the part failed.
static MISSING: AtomicBool = AtomicBool::new(false);

/// Returns the part's hooks, if the part is loaded.
pub(crate) fn loaded() -> Option<&'static StepHooks> {
    // SAFETY: the pointer is null or that of a variable of the part, which stays loaded until the process ends.
    unsafe { HOOKS.load(Relaxed).as_ref() }
}

/// Whether loading the part failed.
pub(crate) fn is_missing() -> bool {
    MISSING.load(Relaxed)
}

/// Prints an error for the user in the task: [`load`] on a node writes to Slurm's log only.
pub(crate) fn tell_that_it_is_missing() {
    let told =
        c"parallax: incomplete Parallax installation on this node: cannot load %s for the task's image; tell the administrator";
    // SAFETY: the format takes one string, and the file's name is one.
    unsafe { c::slurm_error(told.as_ptr(), FILE.as_ptr()) };
}

/// Returns the part's hooks and loads the part if necessary; `None`, logged once in Slurm's log, if loading fails.
pub(crate) fn load() -> Option<&'static StepHooks> {
    if loaded().is_none() && !is_missing() {
        let mut path: [c_char; c::PATH_MAX as usize] = [0; c::PATH_MAX as usize];
        let hooks = beside_this_file(&mut path).map_or(null_mut(), open);
        HOOKS.store(hooks.cast(), Relaxed);
        MISSING.store(hooks.is_null(), Relaxed);
    }
    loaded()
}

/// Returns the path of the part: the directory from which Slurm loaded this plugin, and the part's file name.
fn beside_this_file(path: &mut [c_char]) -> Option<*const c_char> {
    let mut info = c::Dl_info {
        dli_fname: core::ptr::null(),
        dli_fbase: null_mut(),
        dli_sname: core::ptr::null(),
        dli_saddr: null_mut(),
    };
    // SAFETY: any address may be asked for, and the answer is written where there is room for it.
    let known = unsafe { c::dladdr((&raw const MISSING).cast(), &raw mut info) };
    if known == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: dladdr(3) gives a string, which stays as long as this plugin.
    let own = unsafe { CStr::from_ptr(info.dli_fname) }.to_bytes();
    let directory = own.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let bytes = own.iter().take(directory).chain(FILE.to_bytes_with_nul());
    let fits = directory + FILE.to_bytes_with_nul().len() <= path.len();
    path.iter_mut().zip(bytes).for_each(|(to, byte)| *to = *byte as c_char);
    fits.then_some(path.as_ptr())
}

/// Loads the file and returns its [`StepHooks`], or null.
fn open(path: *const c_char) -> *mut c_void {
    // SAFETY: the path is a string. What is in the file is ours, or the symbol is not there. It is never unloaded.
    let hooks = unsafe {
        let file = c::dlopen(path, (c::RTLD_NOW | c::RTLD_LOCAL) as c_int);
        if file.is_null() { file } else { c::dlsym(file, SYMBOL.as_ptr()) }
    };
    if hooks.is_null() {
        let told = c"parallax: incomplete Parallax installation on this machine: %s; tell the administrator";
        // SAFETY: dlerror(3) gives a string after a failure, and the format takes one.
        unsafe { c::slurm_error(told.as_ptr(), c::dlerror()) };
    }
    hooks
}
