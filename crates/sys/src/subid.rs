//! Subordinate ids from libsubid, shadow's library, which asks the module that `nsswitch.conf(5)` names for `subid`.
//!
//! The library is loaded when it is needed (`dlopen(3)`): few nodes have such a module, and many have no libsubid. Names and types
//! are those of `libsubid/subid.h` in shadow 4.9 to 4.18. No crate serves: none binds libsubid.
//!
//! A module runs code of third parties, which may hang. Call this in a process with a time limit.

use std::ffi::{CStr, c_char, c_int, c_ulong, c_void};
use std::ptr;

/// The library by its versions, the newest first. All of them have the same functions; version 3 under other names.
const LIBRARIES: [&CStr; 3] = [c"libsubid.so.5", c"libsubid.so.4", c"libsubid.so.3"];

/// The kind of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubidKind {
    /// User ids, as in `/etc/subuid`.
    User,
    /// Group ids, as in `/etc/subgid`.
    Group,
}

/// A range of ids: the first id and the number of ids.
pub type Range = (c_ulong, c_ulong);

/// `struct subid_range`.
#[repr(C)]
struct SubidRange {
    start: c_ulong,
    count: c_ulong,
}

type Init = unsafe extern "C" fn(*const c_char, *mut libc::FILE) -> bool;
type GetRanges = unsafe extern "C" fn(*const c_char, *mut *mut SubidRange) -> c_int;
type Free = unsafe extern "C" fn(*mut c_void);

/// The loaded library. It is never unloaded: its modules may have started threads.
#[derive(Debug)]
pub struct Libsubid {
    users: GetRanges,
    groups: GetRanges,
    free: Free,
}

impl Libsubid {
    /// Loads the library.
    ///
    /// # Errors
    /// The loader's message: the library is not installed, or lacks a function.
    pub fn load() -> Result<Self, String> {
        let mut reason = String::new();
        for name in LIBRARIES {
            match Self::open(name) {
                Ok(library) => return Ok(library),
                // The newest library is the one to install.
                Err(error) if reason.is_empty() => reason = error,
                Err(_) => {}
            }
        }
        Err(reason)
    }

    fn open(name: &CStr) -> Result<Self, String> {
        // SAFETY: the name is a string; the library's constructors are as trusted as those of any other shared library.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            return Err(last_error());
        }
        let find = |names: &[&CStr]| names.iter().find_map(|name| symbol(handle, name)).ok_or_else(last_error);
        let users = find(&[c"subid_get_uid_ranges", c"get_subuid_ranges"])?;
        let groups = find(&[c"subid_get_gid_ranges", c"get_subgid_ranges"])?;
        let library = Self {
            // SAFETY: subid.h declares functions of this name with this type.
            users: unsafe { std::mem::transmute::<*mut c_void, GetRanges>(users) },
            // SAFETY: as above.
            groups: unsafe { std::mem::transmute::<*mut c_void, GetRanges>(groups) },
            free: match symbol(handle, c"subid_free") {
                // SAFETY: as above.
                Some(free) => unsafe { std::mem::transmute::<*mut c_void, Free>(free) },
                // Before version 5 the caller frees the memory.
                None => libc::free,
            },
        };
        if let Some(init) = [c"subid_init", c"libsubid_init"].iter().find_map(|name| symbol(handle, name)) {
            // SAFETY: as above.
            let init = unsafe { std::mem::transmute::<*mut c_void, Init>(init) };
            // SAFETY: null is allowed for both and discards the library's messages; version 3 must not be used without.
            unsafe { init(ptr::null(), ptr::null_mut()) };
        }
        Ok(library)
    }

    /// Returns the ranges of an owner, a user's name or the digits of a uid; `None` if the library reports an error, which includes
    /// users unknown to the module.
    #[must_use]
    pub fn ranges(&self, kind: SubidKind, owner: &CStr) -> Option<Vec<Range>> {
        let get = match kind {
            SubidKind::User => self.users,
            SubidKind::Group => self.groups,
        };
        let mut ranges: *mut SubidRange = ptr::null_mut();
        // SAFETY: the owner is a string, and the second argument points to a pointer that the function sets.
        let count = unsafe { get(owner.as_ptr(), &raw mut ranges) };
        let length = usize::try_from(count).ok();
        let found = length.map(|length| {
            if ranges.is_null() {
                return Vec::new();
            }
            // SAFETY: on success the pointer is that of an array of `count` ranges, allocated by the library.
            let ranges = unsafe { std::slice::from_raw_parts(ranges, length) };
            ranges.iter().map(|range| (range.start, range.count)).collect()
        });
        if found.is_some() && !ranges.is_null() {
            // SAFETY: the array is the library's, and nothing refers to it any more.
            unsafe { (self.free)(ranges.cast()) };
        }
        found
    }
}

fn symbol(handle: *mut c_void, name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the handle is that of a loaded library, and the name is a string.
    let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

/// Returns the message of the loader's last error.
fn last_error() -> String {
    // SAFETY: the message is null, or a string that is valid until the thread's next call of the loader.
    let message = unsafe { libc::dlerror() };
    if message.is_null() {
        return "unknown error of the loader".to_owned();
    }
    // SAFETY: as above.
    unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::fs;
    use std::process::Command;

    use super::*;

    /// Compiles a library that has these functions, and loads it.
    fn library(directory: &std::path::Path, name: &str, text: &str) -> Result<Libsubid, String> {
        let (source, file) = (directory.join(format!("{name}.c")), directory.join(name));
        fs::write(&source, text).unwrap();
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&file, &source]).output().unwrap();
        assert!(compiled.status.success(), "{compiled:?}");
        Libsubid::open(&CString::new(file.to_str().unwrap()).unwrap())
    }

    const BODY: &str = r#"
        #include <stdlib.h>
        #include <string.h>
        struct subid_range { unsigned long start, count; };
        static int get(const char *owner, struct subid_range **ranges, unsigned long first) {
            if (strcmp(owner, "u1"))
                return strcmp(owner, "none") ? -1 : 0;
            *ranges = malloc(2 * sizeof **ranges);
            (*ranges)[0] = (struct subid_range) { first, 65536 };
            (*ranges)[1] = (struct subid_range) { first + 100000, 7 };
            return 2;
        }
    "#;

    #[test]
    fn the_library_is_asked_by_the_names_of_each_version() {
        let directory = tempfile::tempdir().unwrap();
        let versions = [
            ("five", "subid_get_uid_ranges", "subid_get_gid_ranges", "void subid_free(void *p) { free(p); }"),
            ("four", "subid_get_uid_ranges", "subid_get_gid_ranges", ""),
            ("three", "get_subuid_ranges", "get_subgid_ranges", ""),
        ];
        for (name, users, groups, free) in versions {
            let text = format!(
                "{BODY}\nint {users}(const char *o, struct subid_range **r) {{ return get(o, r, 100000); }}\n\
                 int {groups}(const char *o, struct subid_range **r) {{ return get(o, r, 300000); }}\n{free}\n"
            );
            let library = library(directory.path(), name, &text).unwrap();
            let found = library.ranges(SubidKind::User, c"u1");
            assert_eq!(found, Some(vec![(100_000, 65_536), (200_000, 7)]), "{name}");
            let found = library.ranges(SubidKind::Group, c"u1");
            assert_eq!(found, Some(vec![(300_000, 65_536), (400_000, 7)]), "{name}");
            assert_eq!(library.ranges(SubidKind::User, c"none"), Some(Vec::new()), "{name}");
            assert_eq!(library.ranges(SubidKind::User, c"unknown"), None, "{name}");
        }
    }

    #[test]
    fn a_library_that_is_missing_or_lacks_a_function_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = library(directory.path(), "other", "int other;\n").unwrap_err();
        assert!(error.contains("subid_get_uid_ranges") || error.contains("get_subuid_ranges"), "{error}");
        let error = Libsubid::open(c"/nonexistent/libsubid.so").unwrap_err();
        assert!(error.contains("/nonexistent/libsubid.so"), "{error}");
    }
}
