//! The lines of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its number, which is unique at this moment.
    pub id: u64,
    /// The path at which it is attached.
    pub mount_point: PathBuf,
    /// Its type, with a subtype after a dot: `ext4`, `fuse.cvmfs2`.
    pub file_system: String,
    /// The options of the mount itself.
    pub options: Vec<String>,
    /// The options of the file system.
    pub super_options: Vec<String>,
}

impl Mount {
    /// Parses a line; `None` if it is malformed.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (place, file_system) = line.split_once(" - ")?;
        let mut place = place.split(' ');
        let id = place.next()?.parse().ok()?;
        let mount_point = place.nth(3)?;
        let options = list(place.next()?);
        let mut file_system = file_system.split(' ');
        let kind = file_system.next()?;
        let super_options = list(file_system.nth(1)?);
        Some(Self {
            id,
            mount_point: unescaped(mount_point).into(),
            file_system: kind.to_owned(),
            options,
            super_options,
        })
    }

    /// Parses all lines. Malformed ones, which the kernel does not write, are left out.
    #[must_use]
    pub fn parse_all(text: &str) -> Vec<Self> {
        text.lines().filter_map(Self::parse).collect()
    }

    /// The value of an option of the file system.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        self.super_options.iter().find_map(|option| option.strip_prefix(key)?.strip_prefix('='))
    }

    /// Whether the mount or its file system is read-only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.options.iter().chain(&self.super_options).any(|option| option == "ro")
    }
}

fn list(options: &str) -> Vec<String> {
    options.split(',').map(ToOwned::to_owned).collect()
}

/// A path with blanks, line ends and backslashes in octal numbers.
fn unescaped(text: &str) -> OsString {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 8).ok());
        match code.filter(|_| first == b'\\') {
            Some(code) => {
                bytes.push(code);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_parsed() {
        let line = "36 35 98:0 /m1 /mnt\\0402/a\\134b rw,noatime master:1 - nfs4 server:/x rw,vers=4.2,proto=tcp";
        let mount = Mount::parse(line).unwrap();
        assert_eq!((mount.id, mount.mount_point.to_str()), (36, Some("/mnt 2/a\\b")));
        assert_eq!((mount.file_system.as_str(), mount.value("vers"), mount.value("ver")), ("nfs4", Some("4.2"), None));
        assert!(!mount.is_read_only());
        assert!(Mount::parse("1 0 0:1 / / ro - fuse.cvmfs2 cvmfs2 rw,user_id=0").unwrap().is_read_only());
    }

    #[test]
    fn malformed_lines_are_left_out() {
        assert_eq!(Mount::parse_all("x\n1 2 3:4 / / rw - ext4\n\n5 1 0:1 / /a rw - tmpfs t rw\n").len(), 1);
        assert_eq!(unescaped("a\\04"), "a\\04");
    }
}
