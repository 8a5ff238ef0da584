//! Mounts: `[?]SOURCE[:TARGET[:FLAG+FLAG…]]`, or `tmpfs:TARGET[:FLAG+FLAG…]`.

use std::path::{Component, Path, PathBuf};

use parallax_format::nearest_word;
use serde::{Deserialize, Serialize};

use crate::error::RequestError;
use crate::list::{split, unescape};

/// A mount of a user's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// What is shown.
    pub source: MountSource,
    /// Where, an absolute path in the container without `..`.
    pub target: PathBuf,
    /// True if nothing can be written there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// True if mounts that appear below the source later do not appear in the container.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
    /// True if the mount is left out on nodes that do not have the source.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A directory or file of the node, an absolute path.
    Path(PathBuf),
    /// The contents of a SquashFS file of the node, an absolute path.
    Squashfs(PathBuf),
    /// An empty directory in the step's memory.
    Tmpfs,
}

impl MountSource {
    /// The path of the node; none for an empty directory.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) | Self::Squashfs(path) => Some(path),
            Self::Tmpfs => None,
        }
    }
}

/// The flags. `rw` and `rslave` are what a mount without flags has.
const FLAGS: [&str; 7] = ["ro", "rw", "rslave", "slave", "rprivate", "private", SQSH];
/// The flag by which a source is a SquashFS file, whose contents are shown.
const SQSH: &str = "sqsh";
/// What other tools' users write for what every mount here is: it includes mounts below the source, and honours neither set-uid
/// programs nor device nodes.
const ACCEPTED: [&str; 5] = ["bind", "rbind", "nosuid", "nodev", "x-create=auto"];
/// The word for a directory in memory in the place of a source.
const TMPFS: &str = "tmpfs";

/// Parses a list of mounts. A word after a comma that is a flag belongs to the mount before it (`/a:/b:ro,rprivate`).
pub(crate) fn parse_list(text: &str, directory: &Path) -> Result<Vec<Mount>, RequestError> {
    let mut mounts = Vec::new();
    let mut items: Vec<String> = Vec::new();
    for item in split(text, ',') {
        match items.last_mut() {
            Some(last) if is_flag(item) && split(last, ':').len() == 3 => {
                last.push('+');
                last.push_str(item);
            }
            _ => items.push(item.to_owned()),
        }
    }
    for item in &items {
        push_new(&mut mounts, parse(item, directory)?)?;
    }
    Ok(mounts)
}

/// Adds a mount of the same command line. One that is there already is no error, another one with its target is.
pub(crate) fn push_new(mounts: &mut Vec<Mount>, mount: Mount) -> Result<(), RequestError> {
    match mounts.iter().find(|other| other.target == mount.target) {
        Some(same) if *same == mount => {}
        Some(_) => return Err(RequestError::SameTarget(mount.target.display().to_string())),
        None => mounts.push(mount),
    }
    Ok(())
}

/// Adds a mount in the place of an earlier one with its target.
pub(crate) fn push(mounts: &mut Vec<Mount>, mount: Mount) {
    match mounts.iter_mut().find(|other| other.target == mount.target) {
        Some(same) => *same = mount,
        None => mounts.push(mount),
    }
}

fn is_flag(word: &str) -> bool {
    FLAGS.contains(&word) || ACCEPTED.contains(&word)
}

/// Parses one mount. `directory` is what a relative source belongs to.
fn parse(text: &str, directory: &Path) -> Result<Mount, RequestError> {
    let malformed = |why| RequestError::Mount(text.to_owned(), why);
    let (optional, rest) = text.strip_prefix('?').map_or((false, text), |rest| (true, rest));
    let parts = split(rest, ':');
    let (source, target, flags) = match parts.as_slice() {
        [source] => (*source, *source, ""),
        [source, target] => (*source, *target, ""),
        [source, target, flags] => (*source, *target, *flags),
        _ => return Err(malformed("it has more than two colons")),
    };
    if source.is_empty() {
        return Err(malformed("it has no source"));
    }
    let (source, target) = (unescape(source), PathBuf::from(unescape(target)));
    let source = match source.as_str() {
        TMPFS if parts.len() == 1 => return Err(malformed("a tmpfs needs a target")),
        TMPFS => MountSource::Tmpfs,
        path => match absolute(path, directory) {
            None => return Err(malformed("the source begins neither with \"/\" nor with \".\"")),
            // Who is in a directory that was removed has no current directory.
            Some(path) if !path.is_absolute() => {
                return Err(malformed("the source is relative to the current directory, which no longer exists"));
            }
            Some(path) => MountSource::Path(path),
        },
    };
    // Without a target the source's own path is the target.
    let target = match &source {
        MountSource::Path(path) if parts.len() == 1 => path.clone(),
        _ => target,
    };
    if !is_plain(&target) {
        return Err(malformed("the target is not an absolute path without \"..\""));
    }
    if target == Path::new("/") {
        return Err(malformed("the target would hide the whole image"));
    }
    let mut mount = Mount { source, target, read_only: false, private: false, optional };
    for flag in flags.split('+').filter(|flag| !flag.is_empty()) {
        set(&mut mount, flag).ok_or_else(|| unknown_flag(text, flag))?;
    }
    Ok(mount)
}

/// Sets a flag; `None` if there is no such flag.
fn set(mount: &mut Mount, flag: &str) -> Option<()> {
    match flag {
        "ro" => mount.read_only = true,
        "rw" => mount.read_only = false,
        "rslave" | "slave" => mount.private = false,
        "rprivate" | "private" => mount.private = true,
        SQSH => match &mount.source {
            MountSource::Path(file) => mount.source = MountSource::Squashfs(file.clone()),
            MountSource::Squashfs(_) => {}
            MountSource::Tmpfs => return None,
        },
        other if ACCEPTED.contains(&other) => {}
        _ => return None,
    }
    Some(())
}

fn unknown_flag(mount: &str, flag: &str) -> RequestError {
    let advice = match nearest_word(flag, &FLAGS) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("there are {}", FLAGS.join(", ")),
    };
    RequestError::Flag { mount: mount.to_owned(), flag: flag.to_owned(), advice }
}

/// The absolute form of a source: `.` and `..` at its begin are seen from the directory. `None` for a bare name, which is more
/// likely a slip than a directory.
fn absolute(path: &str, directory: &Path) -> Option<PathBuf> {
    if path.starts_with('/') {
        return Some(Path::new(path).components().collect());
    }
    let is_relative = [".", ".."].contains(&path) || path.starts_with("./") || path.starts_with("../");
    is_relative.then(|| {
        let mut result = directory.to_owned();
        for component in Path::new(path).components() {
            match component {
                Component::ParentDir => drop(result.pop()),
                Component::Normal(name) => result.push(name),
                _ => {}
            }
        }
        result
    })
}

/// Whether a path is absolute and without `..`.
pub(crate) fn is_plain(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|component| component == Component::ParentDir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<Mount>, RequestError> {
        parse_list(text, Path::new("/data/here"))
    }

    fn one(text: &str) -> Mount {
        let mut mounts = parsed(text).unwrap();
        assert_eq!(mounts.len(), 1, "{mounts:?}");
        mounts.remove(0)
    }

    fn path(source: &str, target: &str) -> Mount {
        let source = MountSource::Path(source.into());
        Mount { source, target: target.into(), read_only: false, private: false, optional: false }
    }

    #[test]
    fn sources_and_targets() {
        assert_eq!(one("/a"), path("/a", "/a"));
        assert_eq!(one("/a/:/b"), path("/a", "/b"));
        assert_eq!(one("./x:/b"), path("/data/here/x", "/b"));
        assert_eq!(one("../x"), path("/data/x", "/data/x"));
        assert_eq!(one(".:/b"), path("/data/here", "/b"));
        assert_eq!(one("?/opt/x"), Mount { optional: true, ..path("/opt/x", "/opt/x") });
        assert_eq!(one("tmpfs:/t").source, MountSource::Tmpfs);
    }

    #[test]
    fn characters_of_the_grammar_in_paths() {
        assert_eq!(one(r"/a\,b\:c\ d:/e\\"), path("/a,b:c d", r"/e\"));
        assert_eq!(one("/a b"), path("/a b", "/a b"));
        assert_eq!(parsed("/a,/b:/c").unwrap(), [path("/a", "/a"), path("/b", "/c")]);
    }

    #[test]
    fn flags_with_plus_and_with_comma() {
        let expected = Mount { read_only: true, private: true, ..path("/a", "/b") };
        assert_eq!(one("/a:/b:ro+rprivate"), expected);
        assert_eq!(one("/a:/b:ro,rprivate"), expected);
        assert_eq!(one("/a:/b:x-create=auto,rbind,ro,private"), expected);
        assert_eq!(one("/a:/b:ro+rw"), path("/a", "/b"));
        assert_eq!(parsed("/a:/b:ro,/c").unwrap().len(), 2);
    }

    #[test]
    fn a_squashfs_file() {
        let file = Mount { source: MountSource::Squashfs("/data/here/x.sqsh".into()), ..path("/", "/b") };
        assert_eq!(one("./x.sqsh:/b:sqsh"), file);
        assert_eq!(one("?./x.sqsh:/b:sqsh,sqsh,ro"), Mount { optional: true, read_only: true, ..file });
    }

    #[test]
    fn a_relative_source_needs_a_current_directory() {
        let message = parse_list("./x:/b", Path::new("")).unwrap_err().to_string();
        assert!(message.contains("no longer exists"), "{message}");
        assert!(parse_list("/x:/b", Path::new("")).is_ok());
    }

    #[test]
    fn what_is_refused_says_why() {
        for (text, why) in [
            ("", "no source"),
            (":/b", "no source"),
            ("a:/b", "neither with"),
            ("/a:b", "not an absolute path"),
            ("/a:/b/../c", "not an absolute path"),
            ("/a:", "not an absolute path"),
            ("/a:/", "hide the whole image"),
            ("/", "hide the whole image"),
            ("/a:/b:ro:rw", "more than two colons"),
            ("tmpfs", "needs a target"),
            ("/a:/b:rprivat", "did you mean \"rprivate\"?"),
            ("/a:/b:zzzzzz", "there are ro, rw"),
            ("tmpfs:/b:sqsh", "sqsh"),
            ("/a:/x,/b:/x", "same target"),
        ] {
            let message = parsed(text).unwrap_err().to_string();
            assert!(message.contains(why), "{text}: {message}");
        }
        assert_eq!(parsed("/a,/a").unwrap().len(), 1);
    }
}
