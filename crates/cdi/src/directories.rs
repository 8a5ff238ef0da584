//! The specifications of a machine.

use std::path::PathBuf;

use parallax_oci_hooks::read_directory;

use crate::devices::Devices;
use crate::specification::{Format, Specification};

/// The extensions of specifications.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];

/// The specifications in some directories.
#[derive(Debug, Default)]
pub struct Specifications {
    /// The devices.
    pub devices: Devices,
    /// Files and directories that cannot be used, and the reasons. Their devices do not exist.
    pub unusable: Vec<(PathBuf, String)>,
}

impl Specifications {
    /// Reads the specifications in these directories, those of lower priority first.
    #[must_use]
    pub fn read(directories: &[PathBuf]) -> Self {
        let mut all = Self::default();
        for (number, directory) in directories.iter().enumerate() {
            let files = match read_directory(directory, &EXTENSIONS) {
                Ok(files) => files,
                Err(error) => {
                    all.unusable.push((directory.clone(), error.to_string()));
                    continue;
                }
            };
            for file in files {
                let extension = file.path.extension().unwrap_or_default();
                let format = if extension == "json" { Format::Json } else { Format::Yaml };
                let text = file.text.map_err(|error| error.to_string());
                match text.and_then(|text| Specification::parse(&text, format).map_err(|error| error.to_string())) {
                    Ok(specification) => all.devices.add(number, file.path, specification),
                    Err(error) => all.unusable.push((file.path, error)),
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;

    use super::*;

    #[test]
    fn files_that_cannot_be_used_are_kept_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write("a.yaml", "cdiVersion: 0.6.0\nkind: a/b\ndevices: [{name: x}]");
        write("b.json", "{");
        write("c.txt", "");
        let read = Specifications::read(&[directory.path().to_owned(), "/nonexistent".into()]);
        // Specifications must be root's.
        let of_root = fs::metadata(directory.path()).unwrap().uid() == 0;
        assert_eq!((read.devices.names().count(), read.unusable.len()), if of_root { (1, 1) } else { (0, 2) });
        assert!(read.unusable.iter().any(|(path, _)| path.ends_with("b.json")));
        assert_eq!(Specifications::read(&["/dev/null".into()]).unusable[0].0, Path::new("/dev/null"));
    }
}
