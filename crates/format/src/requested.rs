//! What a user names as the image of a step: an image of a store, or a directory of the node.

use std::path::{Path, PathBuf};

use crate::correct::is_file_name;
use crate::name::{NameError, grammar};
use crate::reference::ImageRef;

/// Maximum length of a path in bytes (`PATH_MAX`, with the byte that ends it).
const MAX_PATH: usize = 4095;

/// What a user names as the image of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestedImage {
    /// An image of a store.
    InStore(ImageRef),
    /// A directory of the node that is a root file system, by its absolute path.
    Directory(PathBuf),
}

impl RequestedImage {
    /// Reads what a user wrote.
    ///
    /// # Errors
    /// [`NameError`] for a text that is neither.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let Some(path) = directory(text) else { return ImageRef::parse(text).map(Self::InStore) };
        // The text is a part of variables of which a blank ends a word, and of a file that shells read.
        let is_plain = |c: char| !(c.is_whitespace() || c.is_control() || is_invisible(c) || "\"'`\\$".contains(c));
        if text.len() > MAX_PATH || !text.chars().all(is_plain) {
            return Err(grammar(
                text,
                "the path of a directory has no blanks, quotes, backslashes, dollar signs or invisible characters here",
            ));
        }
        Ok(Self::Directory(path.to_owned()))
    }
}

/// Whether a character changes how the text around it is shown, in logs for example, and shows nothing itself (Unicode's bidirectional
/// controls and zero-width characters).
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Returns the path that a text names, if it looks like that of a directory: an absolute path without the ending of an image file.
pub(crate) fn directory(text: &str) -> Option<&Path> {
    (text.starts_with('/') && !is_file_name(text)).then(|| Path::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absolute_path_is_a_directory() {
        for path in ["/", "/images/débian", "/cvmfs/unpacked.example.org/registry.example.org/library/python:3.12"] {
            assert_eq!(RequestedImage::parse(path).unwrap(), RequestedImage::Directory(path.into()));
        }
        for name in ["python", "quay.io/org/app:v1"] {
            assert!(matches!(RequestedImage::parse(name).unwrap(), RequestedImage::InStore(_)), "{name}");
        }
    }

    #[test]
    fn files_and_paths_that_cannot_be_handed_on_are_refused() {
        let error = |text: &str| RequestedImage::parse(text).unwrap_err().to_string();
        for text in ["/images/python.sqsh", "./app", "~/app"] {
            assert!(error(text).contains("not a file"), "{text}: {}", error(text));
        }
        let long = format!("/{}", "a".repeat(MAX_PATH));
        for text in ["/a b", "/a\u{202e}b", "/a\nb", "/a\"b", "/a$b", "/a\\b", long.as_str()] {
            assert!(error(text).contains("no blanks"), "{text}");
        }
    }
}
