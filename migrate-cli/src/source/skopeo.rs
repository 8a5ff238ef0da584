//! Calls of skopeo.

use std::process::Command;

use anyhow::{Context as _, ensure};
use containers_image_proxy::{Error, ImageProxyConfig};
use parallax_format::oci::Platform;

use super::access::Access;
use super::reference::{Reference, Transport};

/// Returns the command line of skopeo up to its subcommand.
///
/// A rootless user's storage is mounted in the user namespace that Podman makes. `skopeo copy` enters the namespace by itself,
/// skopeo's image proxy (1.18) does not. Root's skopeo mounts a storage and leaves it mounted, so it gets a private mount
/// namespace. skopeo never outlives this process.
fn skopeo(reference: &Reference, access: &Access) -> Command {
    let is_root = rustix::process::geteuid().is_root();
    let before: &[&str] = match reference.transport {
        Transport::ContainersStorage if is_root => &["unshare", "--mount", "--propagation", "private", "--"],
        Transport::ContainersStorage => &["podman", "unshare"],
        _ => &[],
    };
    let mut words = before.iter().copied().chain(["setpriv", "--pdeathsig", "TERM", "--", "skopeo"]);
    let mut command = Command::new(words.next().unwrap_or("skopeo"));
    command.args(words);
    command.args(access.platform.iter().flat_map(options));
    command
}

/// Returns skopeo's options for a platform.
fn options(platform: &Platform) -> Vec<String> {
    let named = [
        ("--override-os", Some(&platform.os)),
        ("--override-arch", Some(&platform.architecture)),
        ("--override-variant", platform.variant.as_ref()),
    ];
    let given = named.into_iter().filter_map(|(option, value)| Some([option.to_owned(), value?.clone()]));
    given.flatten().collect()
}

/// Returns the proxy for one source.
pub(super) fn proxy_config(reference: &Reference, access: &Access) -> ImageProxyConfig {
    let mut config = ImageProxyConfig::default();
    config.authfile.clone_from(&access.authfile);
    config.certificate_directory.clone_from(&access.cert_dir);
    config.insecure_skip_tls_verification = Some(!access.tls_verify);
    config.skopeo_cmd = Some(skopeo(reference, access));
    config
}

/// Returns the manifest or index of `text`, byte for byte.
///
/// # Errors
/// skopeo's error.
pub(super) fn inspect(text: &str, reference: &Reference, access: &Access) -> anyhow::Result<Vec<u8>> {
    let mut command = skopeo(reference, access);
    command.args(["inspect", "--raw"]);
    if let Some(file) = &access.authfile {
        command.arg("--authfile").arg(file);
    }
    if let Some(directory) = &access.cert_dir {
        command.arg("--cert-dir").arg(directory);
    }
    if !access.tls_verify {
        command.arg("--tls-verify=false");
    }
    let output = command.arg(text).output().context("cannot run skopeo")?;
    ensure!(
        output.status.success(),
        "cannot read the manifest: skopeo inspect: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output.stdout)
}

/// Copies an image, or an artifact, to a registry, byte for byte; of an index nothing but the index itself.
///
/// # Errors
/// skopeo's error.
pub(super) fn copy(from: &str, to: &Reference, access: &Access) -> anyhow::Result<()> {
    let mut command = skopeo(to, access);
    command.args(["copy", "--quiet", "--preserve-digests", "--multi-arch=index-only", "--retry-times=3"]);
    if let Some(file) = &access.authfile {
        command.arg("--dest-authfile").arg(file);
    }
    if let Some(directory) = &access.cert_dir {
        command.arg("--dest-cert-dir").arg(directory);
    }
    if !access.tls_verify {
        command.arg("--dest-tls-verify=false");
    }
    let output = command.args([from, &to.text]).output().context("cannot run skopeo")?;
    ensure!(output.status.success(), "skopeo copy: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Returns an error's message without the names of the proxy's methods.
pub(super) fn skopeo_error(error: Error) -> anyhow::Error {
    match error {
        Error::SkopeoSpawnError(error) => anyhow::anyhow!("cannot run skopeo: {error}; install skopeo 1.9 or newer"),
        Error::ProxyTooOld { .. } => anyhow::anyhow!("skopeo is too old; install skopeo 1.9 or newer"),
        Error::RequestInitiationFailure { error, .. } | Error::RetryableRequestFailure { error, .. } => {
            anyhow::anyhow!("{error}")
        }
        other => other.into(),
    }
}
