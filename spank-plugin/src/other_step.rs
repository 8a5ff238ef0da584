//! Variables of another step, inherited by the processes that started this one.
//!
//! A step in podman mode has variables that name files in its directory. Jobs and steps that are started from such a step
//! inherit the variables, and the files are removed with the other step. The variables are useless to the inheriting step.

use core::ffi::{CStr, c_char, c_int};
use core::ptr::null_mut;

use parallax_spank_hooks::{PODMAN_SETTINGS, STEP_DIRECTORY};

use crate::c;

/// Maximum length in bytes of the path of a step's directory, or of the name of a variable, with its final null byte.
const MAX_LENGTH: usize = 512;
/// Maximum number of removed variables; more than any user derives from those of a step.
const MAX_REMOVALS: u32 = 64;
/// Prefixes of a path in addresses of sockets.
const SCHEMES: [&[u8]; 3] = [b"", b"unix://", b"unix:path="];

/// Removes variables that name the directory of another step from the step's environment. Does nothing without [`STEP_DIRECTORY`].
pub(crate) fn remove_variables(spank: c::spank_t) {
    let mut buffer: [c_char; MAX_LENGTH] = [0; MAX_LENGTH];
    let Some(directory) = get(spank, STEP_DIRECTORY, &mut buffer) else { return };
    // Accepts a path only: the user controls the variable.
    if directory.to_bytes().first() != Some(&b'/') {
        return;
    }
    // The environment changes with each removal, so the search begins again. It ends even if a removal changed nothing.
    let mut name: [c_char; MAX_LENGTH] = [0; MAX_LENGTH];
    for _ in 0..MAX_REMOVALS {
        match find(spank, directory.to_bytes(), &mut name) {
            Some(found) if unset(spank, found) => {}
            _ => break,
        }
    }
    for (name, value) in PODMAN_SETTINGS {
        let mut buffer: [c_char; MAX_LENGTH] = [0; MAX_LENGTH];
        if get(spank, name, &mut buffer) == Some(value) {
            unset(spank, name);
        }
    }
}

/// Returns the value of a variable; `None` if it is not set, or too long for the buffer.
fn get<'a>(spank: c::spank_t, name: &CStr, buffer: &'a mut [c_char]) -> Option<&'a CStr> {
    // SAFETY: the handle is Slurm's own, and the buffer has as many bytes as is said.
    let result = unsafe { c::spank_getenv(spank, name.as_ptr(), buffer.as_mut_ptr(), buffer.len() as c_int) };
    // SAFETY: after a success the buffer holds a string.
    (result == c::SUCCESS).then(|| unsafe { CStr::from_ptr(buffer.as_ptr()) })
}

fn unset(spank: c::spank_t, name: &CStr) -> bool {
    // SAFETY: the handle is Slurm's own, and the name is a string.
    (unsafe { c::spank_unsetenv(spank, name.as_ptr()) }) == c::SUCCESS
}

/// Returns the name of the first variable whose value is the directory, a path below it, or the address of a socket there.
fn find<'a>(spank: c::spank_t, directory: &[u8], name: &'a mut [c_char]) -> Option<&'a CStr> {
    let mut variable: *mut *mut c_char = null_mut();
    // SAFETY: for this item Slurm takes one pointer to an array of strings that ends with a null pointer (`slurm/spank.h`).
    let result = unsafe { c::spank_get_item(spank, c::spank_item_S_JOB_ENV, &raw mut variable) };
    if result != c::SUCCESS || variable.is_null() {
        return None;
    }
    // SAFETY: the array's end has not been passed, and it is not changed while it is read.
    while let Some(text) = unsafe { (*variable).as_ref() } {
        // SAFETY: all its entries are strings.
        let text = unsafe { CStr::from_ptr(text) }.to_bytes();
        if let Some(length) = text.iter().position(|byte| *byte == b'=') {
            let value = text.get(length + 1..).unwrap_or_default();
            if length > 0 && length < name.len() && names(value, directory) {
                name.iter_mut().zip(text).take(length).for_each(|(to, byte)| *to = *byte as c_char);
                *name.get_mut(length)? = 0;
                // SAFETY: the name was just ended.
                return Some(unsafe { CStr::from_ptr(name.as_ptr()) });
            }
        }
        // SAFETY: this entry was not the last.
        variable = unsafe { variable.add(1) };
    }
    None
}

fn names(value: &[u8], directory: &[u8]) -> bool {
    SCHEMES.iter().any(|scheme| {
        let rest = value.strip_prefix(*scheme).and_then(|path| path.strip_prefix(directory));
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
    })
}
