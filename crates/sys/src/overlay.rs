//! The kernel's overlay as a detached mount (`overlayfs`, Linux 5.11 for users).

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{CWD, Mode, mkdir};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, mount, open_tree,
};

use crate::fault;

/// An overlay. Relative paths are those of the current directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overlay {
    /// The layers, the topmost first.
    pub lower: Vec<String>,
    /// The writable directory and its companion on the same file system; without them the overlay is read-only.
    pub upper: Option<[String; 2]>,
    /// True if attributes of the overlay must be `user.` ones: `trusted.` ones are for the first user namespace only.
    pub user_attributes: bool,
}

impl Overlay {
    /// Returns the options that the kernel's overlay and fuse-overlayfs have in common.
    #[must_use]
    pub fn options(&self) -> String {
        let mut options = format!("lowerdir={}", self.lower.join(":"));
        if let Some([directory, work]) = &self.upper {
            options.push_str(&format!(",upperdir={directory},workdir={work}"));
        }
        options
    }

    /// Mounts the overlay, with `others` as further options; returns the mount and a description of how it was made.
    ///
    /// The form with `lowerdir+` (Linux 6.5) takes up to 500 layers; the old one all that fits into one page of options, and a
    /// directory `place`, which is made if it is missing.
    ///
    /// # Errors
    /// The reasons why both forms failed, with the kernel's messages if any.
    pub fn mount(&self, others: &[OsString], place: &str) -> Result<(OwnedFd, &'static str), String> {
        fault::point();
        let new = match self.by_parameters(others) {
            Ok(overlay) => return Ok((overlay, "the kernel's overlay")),
            Err(reason) => reason,
        };
        match self.by_one_page(others, place) {
            Ok(overlay) => Ok((overlay, "the kernel's overlay, with its options in one page")),
            Err(old) => Err(format!("{new}; by mount(2): {old}")),
        }
    }

    fn by_parameters(&self, others: &[OsString]) -> Result<OwnedFd, String> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|error| error.to_string())?;
        let configure = || -> rustix::io::Result<()> {
            fsconfig_set_string(&context, "source", "overlay")?;
            for name in &self.lower {
                fsconfig_set_string(&context, "lowerdir+", name.as_str())?;
            }
            if let Some([directory, work]) = &self.upper {
                fsconfig_set_string(&context, "upperdir", directory.as_str())?;
                fsconfig_set_string(&context, "workdir", work.as_str())?;
            }
            if self.user_attributes {
                fsconfig_set_flag(&context, "userxattr")?;
            }
            for option in others {
                match parameter(option) {
                    (key, None) => fsconfig_set_flag(&context, key)?,
                    (key, Some(value)) => fsconfig_set_string(&context, key, value)?,
                }
            }
            fsconfig_create(&context)
        };
        configure().map_err(|error| explained(&context, error))?;
        let attributes = match self.upper {
            None => MountAttrFlags::MOUNT_ATTR_RDONLY,
            Some(_) => MountAttrFlags::empty(),
        };
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(|error| error.to_string())
    }

    fn by_one_page(&self, others: &[OsString], place: &str) -> io::Result<OwnedFd> {
        let mut data = self.options().into_bytes();
        if self.user_attributes {
            data.extend_from_slice(b",userxattr");
        }
        for option in others {
            data.push(b',');
            data.extend_from_slice(option.as_bytes());
        }
        let data = CString::new(data)?;
        let flags = if self.upper.is_none() { MountFlags::RDONLY } else { MountFlags::empty() };
        match mkdir(place, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        mount("overlay", place, "overlay", flags, data.as_c_str())?;
        Ok(open_tree(CWD, place, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?)
    }
}

/// An option as key and value; the quotes are for `mount(2)` only.
fn parameter(option: &OsStr) -> (&OsStr, Option<&OsStr>) {
    let mut parts = option.as_bytes().splitn(2, |byte| *byte == b'=');
    let key = parts.next().unwrap_or_default();
    let value = parts.next().map(|value| {
        let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        OsStr::from_bytes(quoted.unwrap_or(value))
    });
    (OsStr::from_bytes(key), value)
}

/// An error with what the kernel wrote about it; each message begins with a letter for its kind and a space.
fn explained(context: impl AsFd, error: Errno) -> String {
    let mut buffer = [0; 1024];
    let mut said = Vec::new();
    while let Ok(length @ 1..) = rustix::io::read(context.as_fd(), &mut buffer[..]) {
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
        said.push(text.trim_start_matches(['e', 'w', 'i']).trim().to_owned());
    }
    if said.is_empty() { error.to_string() } else { format!("{error}: {}", said.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_of_both_overlays() {
        let mut overlay = Overlay { lower: vec!["0".into(), "1".into()], ..Overlay::default() };
        assert_eq!(overlay.options(), "lowerdir=0:1");
        overlay.upper = Some(["c/diff".into(), "c/work".into()]);
        assert_eq!(overlay.options(), "lowerdir=0:1,upperdir=c/diff,workdir=c/work");
    }

    #[test]
    fn parameters_lose_their_quotes() {
        let taken = |text| parameter(OsStr::new(text)).1.and_then(OsStr::to_str).map(ToOwned::to_owned);
        assert_eq!(taken("volatile"), None);
        assert_eq!(taken("context=\"a:b:c0,c1\""), Some("a:b:c0,c1".to_owned()));
        assert_eq!(taken("index=off"), Some("off".to_owned()));
    }
}
