//! Parser of Podman's `-o` string (pure).
//!
//! Podman writes paths unchanged except for `\:` and `\,`, and may leave options empty. Paths are bytes, not text.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

/// The parsed options.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// The lower directories, the topmost first.
    pub lower: Vec<PathBuf>,
    /// Directories for changes; none for a read-only mount.
    pub upper: Option<Upper>,
    /// All other options, unchanged.
    pub other: Vec<OsString>,
}

/// The writable directory and its companion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upper {
    /// `upperdir`.
    pub directory: PathBuf,
    /// `workdir`, on the same file system.
    pub work: PathBuf,
}

/// Error of parsing an `-o` string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// No lower directory.
    #[error("the options name no lowerdir")]
    NoLower,
    /// Only one of upper directory and work directory.
    #[error("upperdir and workdir must be given together")]
    HalfAnUpper,
}

impl Options {
    /// Parses the string.
    ///
    /// # Errors
    /// If there is no lower directory, or only one of the upper directory and the work directory.
    pub fn parse(text: &OsStr) -> Result<Self, OptionsError> {
        let mut options = Self::default();
        let (mut upper, mut work) = (None, None);
        for option in split(text.as_bytes(), b',', true) {
            let mut parts = option.splitn(2, |&byte| byte == b'=');
            let (key, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            match key {
                b"" => {}
                b"lowerdir" => {
                    options.lower =
                        split(value, b':', false).into_iter().filter(|path| !path.is_empty()).map(path).collect();
                }
                b"upperdir" => upper = Some(path(value)),
                b"workdir" => work = Some(path(value)),
                _ => options.other.push(OsStr::from_bytes(option).to_owned()),
            }
        }
        options.upper = match (upper, work) {
            (Some(directory), Some(work)) => Some(Upper { directory, work }),
            (None, None) => None,
            _ => return Err(OptionsError::HalfAnUpper),
        };
        if options.lower.is_empty() { Err(OptionsError::NoLower) } else { Ok(options) }
    }
}

impl Options {
    /// Removes the options for SELinux contexts, which a kernel without SELinux refuses.
    pub fn drop_contexts(&mut self) {
        let is_context = |option: &OsString| {
            let key = option.as_bytes().split(|byte| *byte == b'=').next().unwrap_or_default();
            [&b"context"[..], b"fscontext", b"defcontext", b"rootcontext"].contains(&key)
        };
        self.other.retain(|option| !is_context(option));
    }
}

/// Splits at a separator that no backslash stands before and, if quotes count, that is in no quoted value: the commas of an
/// SELinux `context="…"` are part of it. A quote inside a value is a part of it like any other.
fn split(text: &[u8], separator: u8, quotes: bool) -> Vec<&[u8]> {
    let (mut parts, mut begin) = (Vec::new(), 0);
    let (mut escaped, mut quoted) = (false, false);
    for (at, &byte) in text.iter().enumerate() {
        if escaped {
            escaped = false;
        } else if byte == b'\\' {
            escaped = true;
        } else if quotes && byte == b'"' && (quoted || text.get(..at).is_some_and(|before| before.ends_with(b"="))) {
            quoted = !quoted;
        } else if byte == separator && !quoted {
            parts.push(text.get(begin..at).unwrap_or_default());
            begin = at + 1;
        }
    }
    parts.push(text.get(begin..).unwrap_or_default());
    parts
}

/// Returns a path without its escapes. A backslash before any other character is part of the name.
fn path(escaped: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        match (byte, rest.peek()) {
            (b'\\', Some(&next @ (b':' | b',' | b'\\'))) => {
                bytes.push(next);
                rest.next();
            }
            _ => bytes.push(byte),
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Options {
        Options::parse(OsStr::new(text)).unwrap()
    }

    fn others(options: &Options) -> Vec<&str> {
        options.other.iter().map(|option| option.to_str().unwrap()).collect()
    }

    #[test]
    fn what_podman_writes_for_a_container() {
        let options = parse(
            "lowerdir=/s/overlay/l/A:/s/overlay/l/B,upperdir=/g/overlay/c/diff,workdir=/g/overlay/c/work,,volatile,\
             context=\"system_u:object_r:container_file_t:s0:c1,c2\",uidmapping=:0:1:1001:1001:0:1,gidmapping=:0:1:1001",
        );
        assert_eq!(options.lower, [PathBuf::from("/s/overlay/l/A"), "/s/overlay/l/B".into()]);
        assert_eq!(
            options.upper,
            Some(Upper { directory: "/g/overlay/c/diff".into(), work: "/g/overlay/c/work".into() })
        );
        assert_eq!(
            others(&options),
            [
                "volatile",
                "context=\"system_u:object_r:container_file_t:s0:c1,c2\"",
                "uidmapping=:0:1:1001:1001:0:1",
                "gidmapping=:0:1:1001"
            ]
        );
    }

    #[test]
    fn what_podman_writes_for_a_read_only_mount() {
        let options = parse("lowerdir=/s/overlay/x/diff");
        assert_eq!(options, Options { lower: vec!["/s/overlay/x/diff".into()], ..Options::default() });
    }

    #[test]
    fn escapes_and_odd_names() {
        let options = parse("lowerdir=/a\\:b:/c\\,d:/e f:/g\\h:/i=j,private");
        let expected = ["/a:b", "/c,d", "/e f", "/g\\h", "/i=j"].map(PathBuf::from);
        assert_eq!(options.lower, expected);
        assert_eq!(others(&options), ["private"]);
        let options = parse("lowerdir=/a\"b,volatile,workdir=/w,upperdir=/u");
        assert_eq!((&options.lower[..], others(&options)), (&["/a\"b".into()][..], vec!["volatile"]));
        assert_eq!(parse("lowerdir=/a\\\\:/b").lower, [PathBuf::from("/a\\"), "/b".into()]);
    }

    #[test]
    fn names_need_not_be_text() {
        let options = Options::parse(OsStr::from_bytes(b"lowerdir=/\xff\xfe:/b")).unwrap();
        assert_eq!(options.lower[0].as_os_str().as_bytes(), b"/\xff\xfe");
    }

    #[test]
    fn contexts_can_be_left_out() {
        let mut options = parse("lowerdir=/a,context=\"x:y,z\",volatile,fscontext=q");
        options.drop_contexts();
        assert_eq!(others(&options), ["volatile"]);
    }

    #[test]
    fn half_of_what_is_needed_is_an_error() {
        assert_eq!(Options::parse(OsStr::new("volatile")), Err(OptionsError::NoLower));
        assert_eq!(Options::parse(OsStr::new("lowerdir=,volatile")), Err(OptionsError::NoLower));
        assert_eq!(Options::parse(OsStr::new("lowerdir=/a,upperdir=/b")), Err(OptionsError::HalfAnUpper));
    }
}
