//! The entries of directories that lie in several unpacked layers.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use parallax_format::ducc;

use crate::path::LayerPath;

/// Where files lie: a directory, or several whose files are layers of one image, the topmost first.
#[derive(Debug)]
pub(super) struct Sources<'a> {
    tree: &'a Path,
    /// The directories, relative to `tree`; empty for `tree` itself.
    parts: &'a [String],
}

/// A name of a directory.
#[derive(Debug)]
struct Entry {
    /// The numbers of the sources whose files it shows, the topmost first: several for a directory only.
    sources: Vec<usize>,
    /// Whether nothing below is shown.
    closed: bool,
}

impl<'a> Sources<'a> {
    pub(super) fn new(tree: &'a Path, parts: &'a [String]) -> Self {
        Self { tree, parts }
    }

    /// The numbers of all sources.
    pub(super) fn all(&self) -> Vec<usize> {
        (0..self.parts.len().max(1)).collect()
    }

    /// Returns the place of a file in a source.
    pub(super) fn place(&self, source: usize, path: &LayerPath) -> PathBuf {
        self.tree.join(OsStr::from_bytes(&self.within(source, path)))
    }

    /// Returns the same relative to the tree.
    pub(super) fn within(&self, source: usize, path: &LayerPath) -> Vec<u8> {
        match self.parts.get(source) {
            Some(part) if path.is_root() => part.clone().into_bytes(),
            Some(part) => [part.as_bytes(), b"/", path.as_bytes()].concat(),
            None => path.as_bytes().to_vec(),
        }
    }

    /// Returns the names in a directory that lies in these sources, each with those that have it. An error has the directory that cannot be read.
    pub(super) fn entries(
        &self,
        directory: &LayerPath,
        sources: &[usize],
    ) -> Result<BTreeMap<OsString, Vec<usize>>, (PathBuf, io::Error)> {
        let mut shown: BTreeMap<OsString, Entry> = BTreeMap::new();
        let mut hidden = HashSet::new();
        for &source in sources {
            let place = self.place(source, directory);
            let mut deleted = Deleted::default();
            let mut read = || -> io::Result<()> {
                for entry in fs::read_dir(&place)? {
                    let entry = entry?;
                    let name = entry.file_name();
                    let is_file = self.parts.is_empty() || !deleted.takes(&name);
                    if is_file && !hidden.contains(&name) {
                        add(&mut shown, name, source, entry.file_type()?.is_dir());
                    }
                }
                Ok(())
            };
            read().map_err(|cause| (place.clone(), cause))?;
            if deleted.all {
                break;
            }
            hidden.extend(deleted.names);
        }
        Ok(shown.into_iter().map(|(name, entry)| (name, entry.sources)).collect())
    }
}

fn add(shown: &mut BTreeMap<OsString, Entry>, name: OsString, source: usize, is_directory: bool) {
    let entry = shown.entry(name).or_insert_with(|| Entry { sources: Vec::new(), closed: false });
    if entry.closed {
        return;
    }
    // A file ends a directory's layers, and is what is shown if nothing is above it.
    entry.closed = !is_directory;
    if is_directory || entry.sources.is_empty() {
        entry.sources.push(source);
    }
}

/// What a layer deletes in a directory of the layers below.
#[derive(Debug, Default)]
struct Deleted {
    names: Vec<OsString>,
    all: bool,
}

impl Deleted {
    /// Whether a file stands for deleted ones, which it then notes.
    fn takes(&mut self, name: &OsStr) -> bool {
        let Some(deleted) = name.as_bytes().strip_prefix(ducc::WHITEOUT.as_bytes()) else { return false };
        if name == ducc::OPAQUE {
            self.all = true;
        } else if !deleted.starts_with(ducc::WHITEOUT.as_bytes()) {
            self.names.push(OsString::from_vec(deleted.to_vec()));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names in a directory, with the sources that have them.
    fn names(tree: &Path, directory: &str, sources: &[usize]) -> String {
        let parts = ["top", "middle", "base"].map(str::to_owned);
        let path = LayerPath::of_entry(directory.as_bytes()).unwrap();
        let entries = Sources::new(tree, &parts).entries(&path, sources).unwrap();
        entries.iter().map(|(name, sources)| format!("{} {sources:?}\n", name.display())).collect()
    }

    #[test]
    fn what_upper_layers_delete_and_replace_is_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path();
        for place in
            ["top/d/s", "top/o", "middle/d", "middle/again", "base/d/s", "base/o", "base/again", "base/f", "base/gone"]
        {
            fs::create_dir_all(tree.join(place)).unwrap();
        }
        let files = [
            "top/.wh.gone",
            "top/o/.wh..wh..opq",
            "top/o/new",
            "top/.wh..wh.plnk",
            "top/f",
            "middle/.wh.again",
            "middle/d/s",
            "middle/gone",
            "base/o/old",
            "base/d/x",
            "base/kept",
        ];
        for file in files {
            fs::write(tree.join(file), "").unwrap();
        }
        assert_eq!(names(tree, "", &[0, 1, 2]), "again [1]\nd [0, 1, 2]\nf [0]\nkept [2]\no [0, 2]\n");
        assert_eq!(names(tree, "o", &[0, 2]), "new [0]\n");
        // The file in the middle hides the directory of the base.
        assert_eq!(names(tree, "d", &[0, 1, 2]), "s [0]\nx [2]\n");
        let read = Sources::new(&tree.join("top"), &[]).entries(&LayerPath::root(), &[0]).unwrap();
        assert!(read.contains_key(OsStr::new(".wh.gone")), "a directory that is no layer has no such files");
    }
}
