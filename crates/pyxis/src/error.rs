//! Errors, for users.

use parallax_request::RequestError;

/// Why options with pyxis' names cannot be used. Each text begins with the option, or the variable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PyxisError {
    /// An option was given twice with different values.
    #[error("{0} is given twice, with different values; write it once")]
    Twice(String),
    /// An option and its opposite.
    #[error("{0} contradicts {1}; use one of the two")]
    Contradiction(String, String),
    /// A value is invalid.
    #[error("{0}: {1}")]
    Value(String, RequestError),
    /// Not the name of a variable.
    #[error("{0}: \"{1}\" is not the name of a variable; write NAME,NAME,... (--parallax-env takes NAME=VALUE)")]
    VariableName(String, String),
    /// A mount that takes something away has no path.
    #[error("{0}: \"{1}\": write umount:/PATH, with an absolute path of the container")]
    Unmount(String, String),
    /// Saving a container.
    #[error(
        "{0} is not possible: a step's container ends with the step. Use \"podman commit\" in a job with --parallax-mode=podman, and ask \
         the administrator to put the image into the store with \"parallax migrate\""
    )]
    Save(String),
    /// This version lacks it.
    #[error("{0} is not possible: this version of Parallax has no {1}")]
    Missing(String, &'static str),
    /// The variable of an option without a value is neither true nor false.
    #[error("{0}: {1}")]
    Boolean(String, RequestError),
}
