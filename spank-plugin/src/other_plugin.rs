//! Other plugins that Slurm has loaded. It loads all of them before it calls the first one.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::transmute;
use core::ptr::{null, null_mut};

use crate::c;

/// `dl_iterate_phdr(3)`, which is looked up only where it is needed: every job pays for a symbol that is resolved at load.
type Iterate = unsafe extern "C" fn(Visit, *mut c_void) -> c_int;
type Visit = unsafe extern "C" fn(*mut c::dl_phdr_info, usize, *mut c_void) -> c_int;

/// A search among the loaded files.
struct Search<'a> {
    part: &'a [u8],
    found: *const c_char,
}

/// Returns the path of the first loaded file whose name has this part.
pub(crate) fn loaded(part: &[u8]) -> Option<&'static CStr> {
    // SAFETY: the name is a string. Without a handle the symbol is looked up as the program's own.
    let iterate = unsafe { c::dlsym(null_mut(), c"dl_iterate_phdr".as_ptr()) };
    if iterate.is_null() {
        return None;
    }
    let mut search = Search { part, found: null() };
    // SAFETY: the symbol is the C library's, of this type. It calls the function for each file while the search lives.
    unsafe {
        let iterate: Iterate = transmute(iterate);
        iterate(visit, (&raw mut search).cast());
    }
    // SAFETY: the path is a string that lives as long as the file is loaded, and Slurm unloads plugins at its end only.
    (!search.found.is_null()).then(|| unsafe { CStr::from_ptr(search.found) })
}

/// Looks at a file; ends the search with a value other than 0.
unsafe extern "C" fn visit(file: *mut c::dl_phdr_info, _size: usize, search: *mut c_void) -> c_int {
    // SAFETY: `loaded` passes its search, and the C library the file.
    let (Some(file), Some(search)) = (unsafe { file.as_ref() }, unsafe { search.cast::<Search<'_>>().as_mut() }) else {
        return 0;
    };
    if file.dlpi_name.is_null() {
        return 0;
    }
    // SAFETY: a string (dl_iterate_phdr(3)).
    let path = unsafe { CStr::from_ptr(file.dlpi_name) }.to_bytes();
    let start = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let has_part = |at| path.get(at..).is_some_and(|rest| rest.starts_with(search.part));
    if !(start..path.len()).any(has_part) {
        return 0;
    }
    search.found = file.dlpi_name;
    1
}
