//! Errors and warnings, for users.

use std::fmt;
use std::io;
use std::path::PathBuf;

use parallax_format::nearest_word;

use crate::place::Place;

/// Why an environment cannot be used. The text names the file, the position and what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum EdfError {
    /// No directory has a file of this name.
    #[error(
        "the environment \"{name}\" is in none of the directories {directories} (EDF_PATH, and the site's){advice}"
    )]
    NotFound {
        /// The name.
        name: String,
        /// The directories, with commas.
        directories: String,
        /// The nearest names, or nothing.
        advice: String,
    },
    /// Neither a name nor a path.
    #[error(
        "\"{0}\" is neither the name of an environment nor a path that ends in .toml; write a name without .toml, or such a path"
    )]
    Reference(String),
    /// The file cannot be read.
    #[error("cannot read {path}: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        cause: io::Error,
    },
    /// Files or their strings are too large.
    #[error("{0} exceeds 1 MiB")]
    TooLarge(String),
    /// A file that is its own base.
    #[error("a base_environment leads back to its own file: {0}")]
    Cycle(String),
    /// Too many bases below each other.
    #[error("there are more than 10 levels of base_environment: {0}")]
    TooDeep(String),
    /// Something in a file is wrong.
    #[error("{place}: {message}")]
    At {
        /// Where.
        place: Place,
        /// What, and what to write instead.
        message: String,
    },
    /// Neither the file nor its bases have an image.
    #[error("{0} has no image: add image = \"NAME\", or a base_environment that has one")]
    NoImage(PathBuf),
}

impl EdfError {
    pub(crate) fn at(place: Place, message: impl Into<String>) -> Self {
        Self::At { place, message: message.into() }
    }
}

/// What is not as the user may think, but does not prevent the use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Where.
    pub place: Place,
    /// What.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// The words that know a typo: the nearest of them, or all.
pub(crate) fn advice(typed: &str, known: &[&str]) -> String {
    match nearest_word(typed, known) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("there are {}", known.join(", ")),
    }
}
