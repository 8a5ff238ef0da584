//! Errors of the settings of chunk stores.

use std::path::PathBuf;

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Not a URL of a chunk store.
    #[error("invalid URL {0}: must be http:// or https:// with a host, without user, query or fragment")]
    Url(String),
    /// Not a bucket.
    #[error("invalid bucket {0}: must be s3://BUCKET/PREFIX, of letters, digits and \"-\", \"_\", \".\", \"~\"")]
    Bucket(String),
    /// Not a repository.
    #[error("invalid repository {0}: must be docker://HOST[:PORT]/NAME, without a tag")]
    Repository(String),
    /// Not a directory of a server.
    #[error(
        "invalid URL {0}: must be ssh://[USER@]HOST[:PORT]/PATH, of letters, digits and \"-\", \"_\", \".\", \"~\", \"+\", \"=\""
    )]
    Ssh(String),
    /// A path that ssh would change.
    #[error("the path {} cannot be passed to ssh: it has a space, a quotation mark, a backslash or \"%\"", .0.display())]
    SshPath(PathBuf),
    /// The credentials cannot be read; the reason.
    #[error("{0}")]
    Credentials(String),
    /// Not a URL of a proxy.
    #[error("invalid proxy {0}: must be a URL such as http://proxy.site:3128")]
    Proxy(String),
    /// The authorities cannot be read.
    #[error("cannot read certificates from {}: {reason}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// The problem.
        reason: String,
    },
}
