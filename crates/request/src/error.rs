//! Errors of requests, for users.

use parallax_format::device::DeviceNameError;

/// Why an option's value is refused. The text names the value and what to write instead; the caller puts the option before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A mount is malformed.
    #[error("\"{0}\": {1}; write SOURCE[:TARGET[:FLAG+FLAG...]], with \"\\\" before a \":\" or \",\" of a path")]
    Mount(String, &'static str),
    /// A flag of a mount is unknown.
    #[error("\"{mount}\": the flag \"{flag}\" is unknown; {advice}")]
    Flag {
        /// The mount as written.
        mount: String,
        /// The flag.
        flag: String,
        /// The nearest flag, or all of them.
        advice: String,
    },
    /// Two mounts have the same target.
    #[error("\"{0}\" and another mount have the same target")]
    SameTarget(String),
    /// A variable is malformed.
    #[error(
        "\"{0}\": {1}; write NAME=VALUE, NAME (keep the job's value) or -NAME (unset), with \"\\\" before a \",\" of a value"
    )]
    Assignment(String, &'static str),
    /// A device's name is invalid.
    #[error("{0}")]
    Device(#[from] DeviceNameError),
    /// An annotation is malformed.
    #[error("\"{0}\" is not NAME=VALUE; \"\\\" before a \",\" makes it part of a value")]
    Annotation(String),
    /// A path is not absolute.
    #[error("\"{0}\" is not an absolute path without \"..\"; write a directory of the container, such as /data")]
    Path(String),
    /// An option that takes no value has one.
    #[error("it takes no value, and \"{0}\" was given")]
    Value(String),
    /// The variable of an option without a value is neither true nor false.
    #[error("\"{0}\" is neither true nor false; write 1 or 0")]
    Boolean(String),
    /// A site names an option that does not exist.
    #[error("the option \"{0}\" is unknown; {1}")]
    SiteOption(String, String),
    /// An option and its opposite.
    #[error("it contradicts --{0}; use one of the two")]
    Contradiction(&'static str),
    /// The name of a container is malformed.
    #[error(
        "\"{0}\" is not a name of letters, digits, \".\", \"_\" and \"-\" (up to 64), which \":create\" (it must be new) or \":exec\" (it \
         must be there) may follow"
    )]
    Name(String),
    /// A user namespace is unknown.
    #[error(
        "\"{0}\" is unknown; write \"keep-id\" (tasks have your own id in the container) or \"root\" (they are root there)"
    )]
    Userns(String),
    /// The variable by which a request travels is malformed.
    #[error(
        "the options cannot be read: {0}; they are of another version of Parallax, or were changed: start the step again, and tell \
         the administrator if that does not help"
    )]
    Transport(String),
}
