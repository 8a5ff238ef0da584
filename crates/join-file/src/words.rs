//! Names of files and numbers, put together in memory of a fixed size.

use core::ffi::CStr;

/// Where `PATH` is searched for a command: its directories, in order.
pub fn directories(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b':')
}

/// The path of a file in a directory. An empty directory is the one in which the process is. `None` if `memory` is too small.
#[must_use]
pub fn in_directory<'m>(memory: &'m mut [u8], directory: &[u8], name: &[u8]) -> Option<&'m CStr> {
    let slash: &[u8] = if directory.is_empty() || directory.ends_with(b"/") { b"" } else { b"/" };
    join(memory, &[directory, slash, name])
}

/// The parts in one. `None` if `memory` is too small.
#[must_use]
pub fn join<'m>(memory: &'m mut [u8], parts: &[&[u8]]) -> Option<&'m CStr> {
    let mut length = 0;
    for part in parts.iter().chain(&[&b"\0"[..]]) {
        memory.get_mut(length..length + part.len())?.copy_from_slice(part);
        length += part.len();
    }
    CStr::from_bytes_with_nul(memory.get(..length)?).ok()
}

/// A number in decimal digits. `None` if `memory` is too small.
#[must_use]
pub fn decimal(memory: &mut [u8], number: u32) -> Option<&CStr> {
    let length = memory.len();
    let mut start = length.checked_sub(1)?;
    *memory.get_mut(start)? = 0;
    let mut rest = number;
    loop {
        start = start.checked_sub(1)?;
        *memory.get_mut(start)? = b'0' + u8::try_from(rest % 10).ok()?;
        rest /= 10;
        if rest == 0 {
            return CStr::from_bytes_with_nul(memory.get(start..length)?).ok();
        }
    }
}

/// The start time in a process's `/proc/PID/stat`, in clock ticks since boot: field 22, proc_pid_stat(5).
#[must_use]
pub fn start_time(stat: &[u8]) -> Option<&[u8]> {
    // The second field, the command's name, may itself hold spaces and parentheses.
    let end_of_name = stat.iter().rposition(|&byte| byte == b')')?;
    stat.get(end_of_name + 1..)?.split(|&byte| byte == b' ').filter(|field| !field.is_empty()).nth(19)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_commands() {
        let mut memory = [0; 8];
        assert_eq!(in_directory(&mut memory, b"/bin", b"sh"), Some(c"/bin/sh"));
        assert_eq!(in_directory(&mut memory, b"/bin/", b"sh"), Some(c"/bin/sh"));
        assert_eq!(in_directory(&mut memory, b"", b"sh"), Some(c"sh"));
        assert_eq!(in_directory(&mut memory, b"/bin", b"bash"), None);
        assert!(directories(b"/a::/b").eq([&b"/a"[..], b"", b"/b"]));
    }

    #[test]
    fn numbers() {
        for (number, text) in [(0, c"0"), (42, c"42"), (u32::MAX, c"4294967295")] {
            assert_eq!(decimal(&mut [0; 11], number), Some(text));
        }
        assert_eq!(decimal(&mut [0; 2], 42), None);
        assert_eq!(decimal(&mut [], 0), None);
    }

    #[test]
    fn the_start_time_is_behind_any_name() {
        let stat = b"17 (a) b) S 1 17 17 0 -1 4194560 90 0 0 0 0 0 0 0 20 0 1 0 4711 8192 1";
        assert_eq!(start_time(stat), Some(&b"4711"[..]));
        assert_eq!(start_time(b"17 (a) S 1"), None);
    }
}
