//! Bind mounts as they are written in the configuration.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A path of the node mounted into a container: `SOURCE[:TARGET][:ro]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct BindMount {
    /// The path on the node.
    pub source: PathBuf,
    /// The path in the container.
    pub target: PathBuf,
    /// Whether the mount is read-only in the container.
    pub read_only: bool,
}

/// Error of parsing a bind mount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid mount \"{text}\": {reason}")]
pub struct BindMountError {
    text: String,
    reason: &'static str,
}

impl BindMount {
    /// Reads `SOURCE[:TARGET][:ro|:rw]`; both paths are absolute and without `..`.
    ///
    /// # Errors
    /// [`BindMountError`], which names the text and the reason.
    pub fn parse(text: &str) -> Result<Self, BindMountError> {
        let wrong = |reason| BindMountError { text: text.to_owned(), reason };
        let (paths, read_only) = match text.rsplit_once(':') {
            Some((paths, "ro")) => (paths, true),
            Some((paths, "rw")) => (paths, false),
            _ => (text, false),
        };
        let (source, target) = paths.split_once(':').unwrap_or((paths, paths));
        if target.contains(':') {
            return Err(wrong("more parts than SOURCE[:TARGET][:ro]"));
        }
        let (source, target) = (PathBuf::from(source), PathBuf::from(target));
        if !is_plain_absolute(&source) || !is_plain_absolute(&target) {
            return Err(wrong("paths must be absolute and without \"..\""));
        }
        if target == Path::new("/") {
            return Err(wrong("a mount on / would hide the whole image"));
        }
        Ok(Self { source, target, read_only })
    }
}

impl TryFrom<String> for BindMount {
    type Error = BindMountError;

    fn try_from(text: String) -> Result<Self, BindMountError> {
        Self::parse(&text)
    }
}

/// The text from which [`BindMount::parse`] makes the same mount.
impl From<BindMount> for String {
    fn from(mount: BindMount) -> Self {
        let access = if mount.read_only { ":ro" } else { "" };
        format!("{}:{}{access}", mount.source.display(), mount.target.display())
    }
}

fn is_plain_absolute(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|part| part == Component::ParentDir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_path_is_source_and_target() {
        let mount = BindMount::parse("/scratch:ro").unwrap();
        assert_eq!((mount.source, mount.target, mount.read_only), ("/scratch".into(), "/scratch".into(), true));
    }

    #[test]
    fn source_and_target() {
        let mount = BindMount::parse("/a:/b").unwrap();
        assert_eq!((mount.source, mount.target, mount.read_only), ("/a".into(), "/b".into(), false));
    }

    #[test]
    fn a_mount_is_written_as_it_is_read() {
        for text in ["/a:/b", "/a:/b:ro"] {
            assert_eq!(String::from(BindMount::parse(text).unwrap()), text);
        }
    }

    #[test]
    fn wrong_ones() {
        for text in ["", "a", "/a:b", "/a:/b:/c", "/a/../b", "/a:/", ":", "/a:"] {
            assert!(BindMount::parse(text).is_err(), "{text}");
        }
    }
}
