//! Files of a directory of the administrator's: each must be root's alone to write.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Maximum size of a file in bytes.
const MAX_FILE: u64 = 4 << 20;
/// `O_NONBLOCK`: opening a FIFO does not wait.
const NONBLOCK: i32 = 0o4000;

/// A file of a directory, read.
#[derive(Debug)]
pub struct AdministratorFile {
    /// Its path.
    pub path: PathBuf,
    /// Its contents.
    pub text: Result<String, ReadError>,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Somebody other than root may write it.
    #[error("it does not belong to root, or others may write it")]
    NotOfRoot,
    /// It is not a regular file of a usual size.
    #[error("it is not a regular file of at most 4 MiB")]
    Kind,
}

/// Reads the files of a directory whose names end in one of these extensions, in the order of their names. A directory that does not
/// exist has none.
///
/// # Errors
/// The directory cannot be read.
pub fn read_directory(directory: &Path, extensions: &[&str]) -> io::Result<Vec<AdministratorFile>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>()?;
    paths.retain(|path| path.extension().is_some_and(|own| extensions.iter().any(|extension| own == *extension)));
    paths.sort();
    Ok(paths.into_iter().map(|path| AdministratorFile { text: read(&path), path }).collect())
}

fn read(path: &Path) -> Result<String, ReadError> {
    let file = File::options().read(true).custom_flags(NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
        return Err(ReadError::NotOfRoot);
    }
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err(ReadError::Kind);
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn files_are_read_in_order_if_they_are_roots() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, mode: u32| {
            let path = directory.path().join(name);
            fs::write(&path, name).unwrap();
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        for (name, mode) in [("b.json", 0o644), ("a.yaml", 0o600), ("c.json", 0o664), ("d.txt", 0o644)] {
            write(name, mode);
        }
        fs::create_dir(directory.path().join("e.json")).unwrap();
        let files = read_directory(directory.path(), &["json", "yaml"]).unwrap();
        let names: Vec<&str> = files.iter().map(|file| file.path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.yaml", "b.json", "c.json", "e.json"]);
        let of_root = fs::metadata(directory.path()).unwrap().uid() == 0;
        let texts: Vec<Option<&str>> = files.iter().map(|file| file.text.as_deref().ok()).collect();
        let [a, b] = ["a.yaml", "b.json"].map(|name| of_root.then_some(name));
        assert_eq!(texts, [a, b, None, None]);
        assert!(matches!(files[2].text, Err(ReadError::NotOfRoot)));
    }

    #[test]
    fn a_missing_directory_has_no_files() {
        assert!(read_directory(Path::new("/nonexistent/hooks.d"), &["json"]).unwrap().is_empty());
        assert!(read_directory(Path::new("/dev/null"), &["json"]).is_err());
    }
}
