//! The file: its fields, and their order.

use core::ffi::CStr;

use crate::fields::{FORMAT, Fields, PRESENT, take, take_list};
use crate::rules::Rule;

/// What a task needs to join the container. All strings are bytes without a null byte.
#[derive(Debug, Clone, Copy)]
pub struct JoinFile<'a> {
    /// The number of the process that keeps the container.
    pub process: i32,
    /// Its file `/proc/PID/stat`.
    pub stat: &'a CStr,
    /// Its start time, as that file has it (field 22).
    pub start_time: &'a CStr,
    /// The capabilities that programs of the container may have, one bit each.
    pub bounds: u64,
    /// The value of the variable with the request that the container and this file were made for.
    pub request: Option<&'a CStr>,
    /// The value of `HOME`, on which the directory depends.
    pub home: Option<&'a CStr>,
    /// The directory on the node in which tasks are started.
    pub directory: &'a CStr,
    /// The program that the container shows as the node does, or does not need to; other programs with a path need the launcher.
    pub program: &'a CStr,
    /// The directories in the container in which the command starts: the first that can be entered.
    pub directories: Fields<'a>,
    rules: Fields<'a>,
}

fn number<T: core::str::FromStr>(field: &CStr) -> Option<T> {
    field.to_str().ok()?.parse().ok()
}

/// Reads a value that need not be there.
fn optional(field: &CStr) -> Option<&CStr> {
    let bytes = field.to_bytes_with_nul().strip_prefix(&[PRESENT])?;
    CStr::from_bytes_with_nul(bytes).ok()
}

impl<'a> JoinFile<'a> {
    /// Reads a file; `None` if it is empty, truncated or malformed, or has another version.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let rest = &mut &*bytes;
        if take(rest)? != FORMAT {
            return None;
        }
        let file = Self {
            process: number(take(rest)?)?,
            stat: take(rest)?,
            start_time: take(rest)?,
            bounds: number(take(rest)?)?,
            request: optional(take(rest)?),
            home: optional(take(rest)?),
            directory: take(rest)?,
            program: take(rest)?,
            directories: take_list(rest)?,
            rules: take_list(rest)?,
        };
        (rest.is_empty() && Rule::all(file.rules).all(|rule| rule.is_some())).then_some(file)
    }

    /// The changes of the task's variables, in order.
    pub fn rules(&self) -> impl Iterator<Item = Rule<'a>> {
        Rule::all(self.rules).flatten()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;
    use crate::fields::Encoder;

    fn file(bytes: &mut Vec<u8>, home: Option<&[u8]>) -> bool {
        let encoder = Encoder::new(|part: &[u8]| bytes.extend_from_slice(part));
        let encoder = encoder.field(b"17").field(b"/proc/17/stat").field(b"4711").field(b"255");
        let encoder = encoder.optional(None).optional(home).field(b"/work").field(b"./app");
        let encoder = encoder.field(b"/work").field(b"/").end();
        Rule::Set(c"A=1").write(Rule::Unset(c"B").write(encoder)).end().is_complete()
    }

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        assert!(file(&mut bytes, Some(b"")));
        let read = JoinFile::read(&bytes).unwrap();
        assert_eq!((read.process, read.bounds, read.start_time), (17, 255, c"4711"));
        assert_eq!((read.request, read.home, read.directory), (None, Some(c""), c"/work"));
        assert_eq!((read.stat, read.program), (c"/proc/17/stat", c"./app"));
        assert_eq!(read.directories.collect::<Vec<_>>(), [c"/work", c"/"]);
        assert_eq!(read.rules().collect::<Vec<_>>(), [Rule::Unset(c"B"), Rule::Set(c"A=1")]);
    }

    #[test]
    fn a_part_of_a_file_is_none() {
        let mut bytes = Vec::new();
        assert!(file(&mut bytes, None));
        assert!((0..bytes.len()).all(|length| JoinFile::read(bytes.get(..length).unwrap()).is_none()));
        bytes.push(b'x');
        assert!(JoinFile::read(&bytes).is_none());
        assert!(!file(&mut Vec::new(), Some(b"a\0b")), "a field cannot have a null byte");
    }
}
