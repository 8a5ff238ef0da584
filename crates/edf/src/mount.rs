//! Mounts: `SOURCE:TARGET[:FLAG+FLAG…]`, with flags joined by `+` or `,`.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use crate::error::{EdfError, advice};
use crate::place::Place;

/// A flag of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountFlag {
    /// `ro`.
    ReadOnly,
    /// `rw`.
    Writable,
    /// `bind` or `rbind`.
    Bind,
    /// `private` or `rprivate`.
    Private,
    /// `slave` or `rslave`.
    Slave,
    /// `shared` or `rshared`.
    Shared,
    /// `nosuid`.
    NoSuid,
    /// `nodev`.
    NoDev,
    /// `noexec`.
    NoExec,
    /// `sqsh`: the source is a SquashFS file, and the target shows what is in it.
    Squash,
}

/// Flags as they are written.
const FLAGS: [(&str, MountFlag); 13] = [
    ("ro", MountFlag::ReadOnly),
    ("rw", MountFlag::Writable),
    ("bind", MountFlag::Bind),
    ("rbind", MountFlag::Bind),
    ("private", MountFlag::Private),
    ("rprivate", MountFlag::Private),
    ("slave", MountFlag::Slave),
    ("rslave", MountFlag::Slave),
    ("shared", MountFlag::Shared),
    ("rshared", MountFlag::Shared),
    ("nosuid", MountFlag::NoSuid),
    ("nodev", MountFlag::NoDev),
    ("noexec", MountFlag::NoExec),
];
/// The flag that is not one of the kernel's.
const SQUASH: &str = "sqsh";

/// A mount of an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdfMount {
    /// The path on the node, absolute.
    pub source: PathBuf,
    /// The path in the container, absolute.
    pub target: PathBuf,
    /// The flags, in the order in which they are written.
    pub flags: Vec<MountFlag>,
    /// The flags as written, without repetitions.
    words: Vec<String>,
    /// Where it is written.
    pub place: Place,
}

impl EdfMount {
    /// Parses a mount. Relative paths belong to the directory.
    ///
    /// # Errors
    /// It is malformed, or has an unknown flag.
    pub fn parse(text: &str, place: &Place, directory: &Path) -> Result<Self, EdfError> {
        let malformed = |why: &str| {
            EdfError::at(place.clone(), format!("the mount \"{text}\": {why}; write SOURCE:TARGET[:FLAG+FLAG...]"))
        };
        let mut parts = text.splitn(3, ':');
        let source = parts.next().filter(|source| !source.is_empty()).ok_or_else(|| malformed("it has no source"))?;
        let target = parts.next().ok_or_else(|| malformed("it has no target"))?;
        let mut mount = Self {
            source: absolute(source, directory)
                .ok_or_else(|| malformed("the source begins neither with \"/\" nor with \".\""))?,
            target: absolute(target, directory)
                .ok_or_else(|| malformed("the target begins neither with \"/\" nor with \".\""))?,
            flags: Vec::new(),
            words: Vec::new(),
            place: place.clone(),
        };
        if mount.target == Path::new("/") {
            return Err(malformed("the target would hide the whole image"));
        }
        let words = parts.next().unwrap_or_default().split(['+', ',']).map(str::trim).filter(|word| !word.is_empty());
        for word in words {
            let flag = flag(word).ok_or_else(|| malformed(&unknown(word)))?;
            if !mount.flags.contains(&flag) {
                mount.flags.push(flag);
                mount.words.push(word.to_owned());
            }
        }
        Ok(mount)
    }

    /// Whether both show the same in the same way.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.source, &self.target, &self.flags) == (&other.source, &other.target, &other.flags)
    }
}

impl fmt::Display for EdfMount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source.display(), self.target.display())?;
        if self.words.is_empty() { Ok(()) } else { write!(f, ":{}", self.words.join("+")) }
    }
}

fn flag(word: &str) -> Option<MountFlag> {
    if word == SQUASH {
        return Some(MountFlag::Squash);
    }
    FLAGS.iter().find(|(name, _)| *name == word).map(|(_, flag)| *flag)
}

fn unknown(word: &str) -> String {
    let words: Vec<&str> = FLAGS.iter().map(|(name, _)| *name).chain([SQUASH]).collect();
    format!("the flag \"{word}\" is unknown; {}", advice(word, &words))
}

/// The absolute form of a path without `.` and `..`; `None` for one that begins neither with `/` nor with `.`.
pub(crate) fn absolute(path: &str, directory: &Path) -> Option<PathBuf> {
    let mut result = match path.chars().next() {
        Some('/') => PathBuf::new(),
        Some('.') => directory.to_owned(),
        _ => return None,
    };
    for component in Path::new(path).components() {
        match component {
            Component::ParentDir => drop(result.pop()),
            Component::CurDir => {}
            other => result.push(other),
        }
    }
    Some(result)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn parsed(text: &str) -> Result<EdfMount, String> {
        let place = Place { file: Arc::from(Path::new("e.toml")), line: 1, column: 1 };
        EdfMount::parse(text, &place, Path::new("/here/now")).map_err(|error| error.to_string())
    }

    #[test]
    fn paths_and_flags() {
        let mount = parsed("/a b/./c:/d/../e:ro+rslave,ro").unwrap();
        assert_eq!((mount.source.as_path(), mount.target.as_path()), (Path::new("/a b/c"), Path::new("/e")));
        assert_eq!(mount.flags, [MountFlag::ReadOnly, MountFlag::Slave]);
        assert_eq!(mount.to_string(), "/a b/c:/e:ro+rslave");
        let mount = parsed("./x.sqsh:/d:sqsh").unwrap();
        assert_eq!((mount.source, mount.flags), ("/here/now/x.sqsh".into(), vec![MountFlag::Squash]));
        assert_eq!(parsed("..:./w").unwrap().to_string(), "/here:/here/now/w");
        assert_eq!(parsed("../..:.hidden").unwrap().to_string(), "/:/here/now/.hidden");
    }

    #[test]
    fn what_is_refused_says_why() {
        for (text, why) in [
            ("", "no source"),
            (":/b", "no source"),
            ("/a", "no target"),
            ("a:/b", "the source begins neither"),
            ("/a:b", "the target begins neither"),
            ("/a:", "the target begins neither"),
            ("/a:/", "hide the whole image"),
            ("/a:/b:roo", "the flag \"roo\" is unknown; did you mean \"ro\"?"),
            ("/a:/b:squash", "unknown; did you mean \"sqsh\"?"),
            ("/a:/b:ro:rw", "the flag \"ro:rw\" is unknown"),
            ("/a:/b:zzzzzzz", "there are ro, rw, bind"),
        ] {
            let message = parsed(text).unwrap_err();
            assert!(message.contains(why) && message.starts_with("e.toml, line 1, column 1: "), "{text}: {message}");
        }
    }
}
