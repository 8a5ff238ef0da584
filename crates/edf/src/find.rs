//! From a name, or a path, to a file.

use std::path::{Component, Path, PathBuf};

use crate::error::EdfError;
use crate::file::did_you_mean;
use crate::mount::absolute;
use crate::sources::Sources;

/// How the file of an environment ends.
const ENDING: &str = ".toml";

/// Where environments are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locations {
    /// The directories of names, in their order.
    pub directories: Vec<PathBuf>,
    /// The current directory, to which relative paths belong.
    pub current: PathBuf,
}

impl Locations {
    /// The directories of `EDF_PATH` (`~/.edf` without it), then the site's.
    #[must_use]
    pub fn new(current: PathBuf, site: &[PathBuf], variable: impl Fn(&str) -> Option<String>) -> Self {
        let listed = variable("EDF_PATH").filter(|paths| !paths.is_empty());
        let mut directories: Vec<PathBuf> = match listed {
            Some(paths) => paths.split(':').filter(|path| !path.is_empty()).map(|path| current.join(path)).collect(),
            None => variable("HOME").map(|home| Path::new(&home).join(".edf")).into_iter().collect(),
        };
        directories.extend(site.iter().cloned());
        Self { directories, current }
    }

    /// Finds the file of an environment. A path belongs to `directory` if it is relative.
    ///
    /// # Errors
    /// It is neither a name nor a path, or there is no file of that name.
    pub(crate) fn find(&self, reference: &str, directory: &Path, sources: &dyn Sources) -> Result<PathBuf, EdfError> {
        if reference.ends_with(ENDING) {
            let path = absolute(reference, directory).or_else(|| absolute(&format!("./{reference}"), directory));
            return path.ok_or_else(|| EdfError::Reference(reference.to_owned()));
        }
        let is_name = !reference.is_empty()
            && !reference.starts_with(['.', '/'])
            && Path::new(reference).components().all(|component| matches!(component, Component::Normal(_)));
        if !is_name {
            return Err(EdfError::Reference(reference.to_owned()));
        }
        let file = format!("{reference}{ENDING}");
        if let Some(found) =
            self.directories.iter().map(|directory| directory.join(&file)).find(|path| sources.is_file(path))
        {
            return Ok(found);
        }
        let names = self.directories.iter().flat_map(|directory| sources.list(directory));
        let known: Vec<String> = names.filter_map(|name| name.strip_suffix(ENDING).map(str::to_owned)).collect();
        let directories: Vec<String> = self.directories.iter().map(|path| path.display().to_string()).collect();
        Err(EdfError::NotFound {
            name: reference.to_owned(),
            directories: directories.join(", "),
            advice: did_you_mean(reference, &known),
        })
    }
}
