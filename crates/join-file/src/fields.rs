//! The file's format: fields, each ended by a null byte. Lists end with an empty field.

use core::ffi::CStr;

/// The first field: the format's name and version.
pub(crate) const FORMAT: &CStr = c"parallax-join 1";
/// What an optional value begins with, if it is there.
pub(crate) const PRESENT: u8 = b'=';

/// Fields up to an empty one.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = &'a CStr;

    fn next(&mut self) -> Option<&'a CStr> {
        take(&mut self.0).filter(|field| !field.is_empty())
    }
}

/// Takes the next field.
pub(crate) fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a CStr> {
    let field = CStr::from_bytes_until_nul(rest).ok()?;
    *rest = rest.get(field.count_bytes() + 1..)?;
    Some(field)
}

/// Takes a list; its iterator is the second part.
pub(crate) fn take_list<'a>(rest: &mut &'a [u8]) -> Option<Fields<'a>> {
    let list = Fields(rest);
    while !take(rest)?.is_empty() {}
    Some(list)
}

/// Writes the fields, in the order of [`JoinFile`](crate::JoinFile). Once a field cannot be written, nothing more is.
#[derive(Debug)]
pub struct Encoder<F>(Option<F>);

impl<F: FnMut(&[u8])> Encoder<F> {
    /// Begins a file, which `write` gets piece by piece.
    pub fn new(write: F) -> Self {
        Self(Some(write)).field(FORMAT.to_bytes())
    }

    /// Writes a field.
    #[must_use]
    pub fn field(self, value: &[u8]) -> Self {
        self.parts(&[value])
    }

    /// Writes a value that need not be there.
    #[must_use]
    pub fn optional(self, value: Option<&[u8]>) -> Self {
        match value {
            Some(value) => self.parts(&[&[PRESENT], value]),
            None => self.field(b""),
        }
    }

    /// Ends a list.
    #[must_use]
    pub fn end(self) -> Self {
        self.field(b"")
    }

    /// Writes one field of several parts.
    #[must_use]
    pub fn parts(mut self, parts: &[&[u8]]) -> Self {
        if parts.iter().any(|part| part.contains(&0)) {
            self.0 = None;
        }
        if let Some(write) = &mut self.0 {
            for part in parts {
                write(part);
            }
            write(&[0]);
        }
        self
    }

    /// Whether everything could be written: a field has no null bytes.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.0.is_some()
    }
}
