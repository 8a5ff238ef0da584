//! Options for access to a source.

use std::path::PathBuf;

use parallax_format::oci::Platform;

/// Options for access to a source.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Access {
    /// Verify the registry's certificate
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub tls_verify: bool,
    /// File with credentials for registries [default: the file that podman login writes]
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// Directory with certificates for the registry: *.crt of its authority, *.cert and *.key of the client [default:
    /// /etc/containers/certs.d]
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,
    /// Platform to select from a multi-platform image: OS/ARCHITECTURE[/VARIANT] [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<Platform>,
    /// Root of the Podman storage for containers-storage:, as in podman --root [default: the user's own]
    #[arg(long, value_name = "DIR")]
    pub podman_root: Option<PathBuf>,
}
