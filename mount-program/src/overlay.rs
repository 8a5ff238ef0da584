//! The overlay over the layers, which have short names in the current directory: the kernel's in one of its two forms, or
//! fuse-overlayfs. All are detached mounts.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{CWD, Mode, mkdir};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, mount, open_tree,
};

use crate::fuse::{self, FuseError, MountOptions, Program};
use crate::settings::Settings;
use parallax_sys::fault;

/// The overlay in terms of names in the current directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Names {
    /// The layers, the topmost first.
    pub lower: Vec<String>,
    /// The writable directory and its companion.
    pub upper: Option<[String; 2]>,
    /// Whether attributes of the overlay must be `user.` ones, because `trusted.` ones are for the first user namespace only.
    pub user_attributes: bool,
}

impl Names {
    /// Returns the options that both overlays support.
    fn options(&self) -> String {
        let lower = self.lower.join(":");
        match &self.upper {
            Some([directory, work]) => format!("lowerdir={lower},upperdir={directory},workdir={work}"),
            None => format!("lowerdir={lower}"),
        }
    }
}

/// Mounts the kernel's overlay; returns the mount and its form.
///
/// The one with `lowerdir+` (Linux 6.5) takes up to 500 layers; the old one all that fits into one page of options.
///
/// # Errors
/// The reasons why both forms failed, with the kernel's messages if any.
pub(crate) fn of_the_kernel(names: &Names, others: &[OsString]) -> Result<(OwnedFd, &'static str), String> {
    fault::point();
    let new = match by_parameters(names, others) {
        Ok(overlay) => return Ok((overlay, "the kernel's overlay")),
        Err(reason) => reason,
    };
    match by_one_page(names, others) {
        Ok(overlay) => Ok((overlay, "the kernel's overlay, with its options in one page")),
        Err(old) => Err(format!("{new}; by mount(2): {old}")),
    }
}

fn by_parameters(names: &Names, others: &[OsString]) -> Result<OwnedFd, String> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|error| error.to_string())?;
    let configure = || -> rustix::io::Result<()> {
        fsconfig_set_string(&context, "source", "overlay")?;
        for name in &names.lower {
            fsconfig_set_string(&context, "lowerdir+", name.as_str())?;
        }
        if let Some([directory, work]) = &names.upper {
            fsconfig_set_string(&context, "upperdir", directory.as_str())?;
            fsconfig_set_string(&context, "workdir", work.as_str())?;
        }
        if names.user_attributes {
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
    let attributes = if names.upper.is_none() { MountAttrFlags::MOUNT_ATTR_RDONLY } else { MountAttrFlags::empty() };
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(|error| error.to_string())
}

/// An option as key and value; the quotes are for `mount(2)` only.
fn parameter(option: &OsStr) -> (&OsStr, Option<&OsStr>) {
    let bytes = option.as_bytes();
    let mut parts = bytes.splitn(2, |byte| *byte == b'=');
    let key = parts.next().unwrap_or_default();
    let value = parts.next().map(|value| {
        let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        OsStr::from_bytes(quoted.unwrap_or(value))
    });
    (OsStr::from_bytes(key), value)
}

/// An error with what the kernel wrote about it; each message begins with a letter for its kind and a space.
fn explained(context: impl AsFd, error: rustix::io::Errno) -> String {
    let mut buffer = [0; 1024];
    let mut said = Vec::new();
    while let Ok(length @ 1..) = rustix::io::read(context.as_fd(), &mut buffer[..]) {
        said.push(
            String::from_utf8_lossy(buffer.get(..length).unwrap_or_default())
                .trim_start_matches(['e', 'w', 'i'])
                .trim()
                .to_owned(),
        );
    }
    if said.is_empty() { error.to_string() } else { format!("{error}: {}", said.join("; ")) }
}

fn by_one_page(names: &Names, others: &[OsString]) -> io::Result<OwnedFd> {
    let mut data = names.options().into_bytes();
    if names.user_attributes {
        data.extend_from_slice(b",userxattr");
    }
    for option in others {
        data.push(b',');
        data.extend_from_slice(option.as_bytes());
    }
    let data = CString::new(data)?;
    let flags = if names.upper.is_none() { MountFlags::RDONLY } else { MountFlags::empty() };
    mkdir("m", Mode::from_raw_mode(0o700))?;
    mount("overlay", "m", "overlay", flags, data.as_c_str())?;
    Ok(open_tree(CWD, "m", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?)
}

/// Starts the overlay in user space, which daemonizes when it serves.
///
/// # Errors
/// The program does not serve.
pub(crate) fn of_fuse(
    names: &Names,
    others: &[OsString],
    context: Option<String>,
    settings: &Settings,
) -> Result<OwnedFd, FuseError> {
    let mut text = OsString::from(names.options());
    for option in others {
        text.push(",");
        text.push(option);
    }
    let options = MountOptions {
        subtype: "fuse-overlayfs",
        flags: &["allow_other", "default_permissions"],
        attributes: MountAttrFlags::MOUNT_ATTR_NOATIME,
        context,
    };
    let connection = fuse::connection()?;
    let mount = fuse::mount(&connection, &options).map_err(FuseError::Mount)?;
    let arguments = ["-o".into(), text];
    let program = Program { programs: &settings.fuse_overlayfs, arguments: &arguments, directory: ".", socket: None };
    let server = fuse::start(program, &connection)?;
    drop(connection);
    server.wait_for_background(settings.timeout)?;
    Ok(mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_of_both_overlays() {
        let mut names = Names { lower: vec!["0".into(), "1".into()], ..Names::default() };
        assert_eq!(names.options(), "lowerdir=0:1");
        names.upper = Some(["c/diff".into(), "c/work".into()]);
        assert_eq!(names.options(), "lowerdir=0:1,upperdir=c/diff,workdir=c/work");
    }

    #[test]
    fn parameters_lose_their_quotes() {
        let taken = |text| parameter(OsStr::new(text)).1.and_then(OsStr::to_str).map(ToOwned::to_owned);
        assert_eq!(taken("volatile"), None);
        assert_eq!(taken("context=\"a:b:c0,c1\""), Some("a:b:c0,c1".to_owned()));
        assert_eq!(taken("index=off"), Some("off".to_owned()));
    }
}
