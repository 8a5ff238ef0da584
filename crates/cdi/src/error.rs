//! Errors of specifications.

use std::path::PathBuf;

use parallax_oci_hooks::HookError;

/// Why a file is not a specification.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecificationError {
    /// Neither JSON nor YAML, or other fields.
    #[error("{0}")]
    Syntax(String),
    /// An unsupported version.
    #[error("cdiVersion \"{0}\" is not supported; 0.3.0 to 1.1.0 are")]
    Version(String),
    /// The kind is malformed.
    #[error("the kind \"{0}\" is not VENDOR/CLASS")]
    Kind(String),
    /// A device's name is malformed.
    #[error("the device name \"{0}\" is invalid")]
    Name(String),
    /// Two devices have the same name.
    #[error("the device \"{0}\" is there twice")]
    Twice(String),
    /// A path is not absolute.
    #[error("the path \"{0}\" is not absolute, or hides the whole image")]
    Path(PathBuf),
    /// A variable is malformed.
    #[error("\"{0}\" of env is not NAME=VALUE")]
    Environment(String),
    /// A mount is neither of a path nor a tmpfs.
    #[error("the type \"{0}\" of a mount is not supported; bind and tmpfs are")]
    MountType(String),
    /// A hook is invalid.
    #[error("{0}")]
    Hook(#[from] HookError),
}
