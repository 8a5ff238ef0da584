//! What a user names as the image of a step: an image of a store, or a path of the node.

use std::path::{Path, PathBuf};

use crate::container_name::is_container_name;
use crate::correct::{is_file_name, is_squashfs_name};
use crate::name::{NameError, grammar};
use crate::reference::ImageRef;

/// Maximum length of a path in bytes (`PATH_MAX`, with the byte that ends it).
const MAX_PATH: usize = 4095;

/// What a user names as the image of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestedImage {
    /// An image of a store.
    InStore(ImageRef),
    /// A directory of the node that is a root file system, or a SquashFS file with one, by its absolute path.
    Path(PathBuf),
    /// The image of the job's container of this name.
    OfContainer(String),
}

/// What comes before the name of a container whose image is meant.
const OF_CONTAINER: &str = "@";

/// Returns the text by which [`RequestedImage::OfContainer`] travels, for a step that names a container of its job and no image.
#[must_use]
pub fn image_of_container(name: &str) -> String {
    format!("{OF_CONTAINER}{name}")
}

impl RequestedImage {
    /// Reads what a user wrote, with a path made absolute.
    ///
    /// # Errors
    /// [`NameError`] for a text that is neither.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if let Some(name) = text.strip_prefix(OF_CONTAINER).filter(|name| is_container_name(name)) {
            return Ok(Self::OfContainer(name.to_owned()));
        }
        let Some(path) = path(text) else { return ImageRef::parse(text).map(Self::InStore) };
        // The text is a part of variables of which a blank ends a word, and of a file that shells read.
        let is_plain = |c: char| !(c.is_whitespace() || c.is_control() || is_invisible(c) || "\"'`\\$".contains(c));
        if text.len() > MAX_PATH || !text.chars().all(is_plain) {
            return Err(grammar(
                text,
                "the path of an image has no blanks, quotes, backslashes, dollar signs or invisible characters here",
            ));
        }
        Ok(Self::Path(path.to_owned()))
    }
}

/// Whether a text is a path that belongs to the directory in which a user has written it: one that begins with `./` or `../`.
#[must_use]
pub fn is_relative_path(text: &str) -> bool {
    matches!(text, "." | "..") || text.starts_with("./") || text.starts_with("../")
}

/// Returns what a user wrote in a directory, for other directories: a relative path becomes an absolute one, and all else stays.
#[must_use]
pub fn from_anywhere(text: &str, directory: &Path) -> String {
    if !is_relative_path(text) {
        return text.to_owned();
    }
    // Without the "." that it begins with. What ".." means is up to the file system, because of symbolic links.
    let path: PathBuf = directory.join(text).components().collect();
    path.to_string_lossy().into_owned()
}

/// Whether a character changes how the text around it is shown, in logs for example, and shows nothing itself (Unicode's bidirectional
/// controls and zero-width characters).
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Returns the path that a text names, if it looks like that of an image: an absolute path without the ending of other tools' files.
fn path(text: &str) -> Option<&Path> {
    (text.starts_with('/') && (is_squashfs_name(text) || !is_file_name(text))).then(|| Path::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absolute_path_is_an_image() {
        let python = "/cvmfs/unpacked.example.org/registry.example.org/library/python:3.12";
        for path in ["/", "/images/débian", python, "/images/python.sqsh"] {
            assert_eq!(RequestedImage::parse(path).unwrap(), RequestedImage::Path(path.into()));
        }
        for name in ["python", "quay.io/org/app:v1"] {
            assert!(matches!(RequestedImage::parse(name).unwrap(), RequestedImage::InStore(_)), "{name}");
        }
    }

    #[test]
    fn the_image_of_a_container_is_no_name() {
        let of = |text: &str| RequestedImage::parse(text);
        assert_eq!(of(&image_of_container("env")).unwrap(), RequestedImage::OfContainer("env".to_owned()));
        assert!(of("@").is_err() && of("@a/b").is_err());
    }

    #[test]
    fn a_relative_path_becomes_absolute() {
        let here = |text: &str| from_anywhere(text, Path::new("/here/now"));
        assert_eq!([here("./a.sqsh"), here("../a"), here(".")], ["/here/now/a.sqsh", "/here/now/../a", "/here/now"]);
        for text in ["/a/./b", "python", ".python", "a/./b"] {
            assert_eq!(here(text), text);
        }
    }

    #[test]
    fn files_and_paths_that_cannot_be_handed_on_are_refused() {
        let error = |text: &str| RequestedImage::parse(text).unwrap_err().to_string();
        for text in ["/images/python.sif", "/images/python.tar", "./app", "~/app"] {
            assert!(error(text).contains("the path of a directory"), "{text}: {}", error(text));
        }
        let long = format!("/{}", "a".repeat(MAX_PATH));
        for text in ["/a b", "/a\u{202e}b", "/a\nb", "/a\"b", "/a$b", "/a\\b", long.as_str()] {
            assert!(error(text).contains("no blanks"), "{text}");
        }
    }
}
