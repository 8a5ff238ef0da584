//! The hooks of the administrator's directories.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use crate::directory::read_directory;
use crate::file::HookFile;

/// Extension of a hook's file.
const EXTENSION: &str = "json";

/// A file or a directory of hooks that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct Unusable {
    /// Its path.
    pub path: PathBuf,
    /// Why, a part of a sentence.
    pub reason: String,
}

impl Unusable {
    fn new(path: &Path, reason: &impl Display) -> Self {
        Self { path: path.to_owned(), reason: reason.to_string() }
    }
}

/// Reads the hooks of these directories, those of lower priority first. Returns the files in the order of their hooks, after the
/// directories that cannot be read; one that does not exist has no files.
#[must_use]
pub fn read_hooks(directories: &[PathBuf]) -> Vec<Result<(PathBuf, HookFile), Unusable>> {
    let (mut all, mut files) = (Vec::new(), Vec::new());
    for directory in directories {
        match read_directory(directory, &[EXTENSION]) {
            Ok(read) => files.push(read.into_iter().map(|file| (file.path, file.text)).collect()),
            Err(error) => all.push(Err(Unusable::new(directory, &error))),
        }
    }
    all.extend(in_order(files).into_iter().map(|(path, text)| {
        let text = text.map_err(|error| Unusable::new(&path, &error))?;
        let file = HookFile::parse(&text).map_err(|error| Unusable::new(&path, &error))?;
        Ok((path, file))
    }));
    all
}

/// Puts the files of several directories in the order of their hooks: by name in lower case. A file of a later directory takes the
/// place of one with its name in an earlier directory.
fn in_order<T>(directories: Vec<Vec<(PathBuf, T)>>) -> Vec<(PathBuf, T)> {
    let mut by_name: BTreeMap<(String, OsString), (PathBuf, T)> = BTreeMap::new();
    for (path, file) in directories.into_iter().flatten() {
        let name = path.file_name().unwrap_or_default().to_owned();
        by_name.insert((name.to_string_lossy().to_lowercase(), name), (path, file));
    }
    by_name.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_directory_replaces_and_names_give_the_order() {
        let directory = |paths: &[&str]| paths.iter().map(|path| (PathBuf::from(path), ())).collect();
        let files = in_order(vec![directory(&["/a/2.json", "/a/B.json"]), directory(&["/b/a.json", "/b/2.json"])]);
        let paths: Vec<&str> = files.iter().map(|(path, ())| path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/b/2.json", "/b/a.json", "/a/B.json"]);
    }

    #[test]
    fn what_cannot_be_read_is_named_and_what_is_missing_is_not() {
        let read = read_hooks(&["/dev/null".into(), "/nonexistent/hooks.d".into()]);
        let [Err(unusable)] = &read[..] else { panic!("{read:?}") };
        assert_eq!(unusable.path, Path::new("/dev/null"));
        assert!(unusable.to_string().starts_with("/dev/null: "), "{unusable}");
    }
}
