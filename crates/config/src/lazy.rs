//! The section of layers whose chunks are fetched as they are read.

use std::path::{Path, PathBuf};

use crate::keys::section;

section! {
    /// Layers whose chunks are fetched as they are read. The nodes need the service parallax-lazy.
    "lazy" Lazy {
        /// Whether layers that have chunks (`parallax chunk`) are mounted before all of their file is on the node. The backend must be
        /// `native`. Other layers, and all where this does not work, are mounted from their SquashFS files in the store.
        enabled: bool = false;
        /// Socket of parallax-lazy: an absolute path in a directory that only root can write.
        socket: PathBuf = PathBuf::from("/run/parallax-lazy.sock");
        /// Chunk stores, in the order in which they are asked: `http://` and `https://` URLs, `s3://BUCKET/PREFIX`,
        /// `ssh://[USER@]HOST[:PORT]/PATH` (or `sftp://`), `docker://HOST[:PORT]/NAME`, and absolute paths. The chunk store beside a layer's index is asked last.
        sources: Vec<String> = Vec::new(), example "[\"https://images.site/layers/default.castr\"]";
        /// File with the certificates of the authorities that sign those of the servers, in PEM format. Empty: the system's.
        ca_file: PathBuf = PathBuf::new();
        /// URL of the server of `s3://` chunk stores: `http://` or `https://`, and a host. Empty: `AWS_ENDPOINT_URL_S3` or
        /// `AWS_ENDPOINT_URL` of the environment, else Amazon's.
        s3_endpoint: String = String::new(), example "\"https://s3.site:9000\"";
        /// Region of the buckets. Empty: `AWS_REGION` or `AWS_DEFAULT_REGION` of the environment, else `us-east-1`.
        s3_region: String = String::new();
        /// Whether the bucket is the first part of the path of requests. If false, it is the first part of the host's name.
        s3_path_style: bool = true;
        /// File with the credentials for buckets, in the format of AWS's tools, to which only the account of parallax-lazy and its group
        /// have access. Empty: `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, `AWS_SHARED_CREDENTIALS_FILE`, or `~/.aws/credentials`;
        /// without these, requests are not signed.
        s3_credentials: PathBuf = PathBuf::new();
        /// File with the host keys of the servers of `ssh://` chunk stores, in the format of `known_hosts`. A server with another key is
        /// refused. Empty: that of the system (`/etc/ssh/ssh_known_hosts`).
        ssh_known_hosts: PathBuf = PathBuf::new(), example "\"/etc/parallax/known_hosts\"";
        /// File with the private key for `ssh://` chunk stores, without a passphrase, to which only the account of parallax-lazy and its group have
        /// access. Empty: what `ssh` finds.
        ssh_key: PathBuf = PathBuf::new();
        /// File with the credentials for registries (`docker://` chunk stores), in the format of `podman login`, to which only the account of
        /// parallax-lazy and its group have access. Empty: requests have no password.
        registry_credentials: PathBuf = PathBuf::new();
        /// Registries that are asked without TLS: `HOST[:PORT]`.
        insecure_registries: Vec<String> = Vec::new(), example "[\"registry.site:5000\"]";
        /// Directory for chunks that were fetched. It belongs to the account of parallax-lazy.
        cache: PathBuf = PathBuf::from("/var/cache/parallax-lazy");
        /// Maximum size of the cache in MiB (1 to 1073741824). Layers that are not mounted make room, the one first that was used
        /// least recently.
        cache_size: u32 = 20480;
        /// How long a reader waits for a chunk that no chunk store returns, in seconds (1 to 3600), if the layer's SquashFS file is not in
        /// the store either. Then reading fails.
        timeout: u32 = 30;
    }
}

impl Lazy {
    /// Returns the file with certificates, if one is configured.
    #[must_use]
    pub fn ca_file(&self) -> Option<&Path> {
        Some(self.ca_file.as_path()).filter(|path| !path.as_os_str().is_empty())
    }

    /// Returns the file with credentials for buckets, if one is configured.
    #[must_use]
    pub fn s3_credentials(&self) -> Option<&Path> {
        Some(self.s3_credentials.as_path()).filter(|path| !path.as_os_str().is_empty())
    }

    /// Returns the file with host keys, if one is configured.
    #[must_use]
    pub fn ssh_known_hosts(&self) -> Option<&Path> {
        Some(self.ssh_known_hosts.as_path()).filter(|path| !path.as_os_str().is_empty())
    }

    /// Returns the file with the private key for SSH, if one is configured.
    #[must_use]
    pub fn ssh_key(&self) -> Option<&Path> {
        Some(self.ssh_key.as_path()).filter(|path| !path.as_os_str().is_empty())
    }

    /// Returns the file with credentials for registries, if one is configured.
    #[must_use]
    pub fn registry_credentials(&self) -> Option<&Path> {
        Some(self.registry_credentials.as_path()).filter(|path| !path.as_os_str().is_empty())
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        let (size, seconds) = (self.cache_size, self.timeout);
        if !(1..=1 << 30).contains(&size) {
            return Err(format!("invalid \"lazy.cache_size\": {size} is not from 1 to 1073741824 MiB"));
        }
        if !(1..=3600).contains(&seconds) {
            return Err(format!("invalid \"lazy.timeout\": {seconds} is not from 1 to 3600 seconds"));
        }
        let files = [
            self.ca_file(),
            self.s3_credentials(),
            self.ssh_known_hosts(),
            self.ssh_key(),
            self.registry_credentials(),
        ];
        let files = files.into_iter().flatten();
        let paths = [self.socket.as_path(), &self.cache].into_iter().chain(files);
        if let Some(path) = paths.into_iter().find(|path| !path.is_absolute()) {
            return Err(format!("the path \"{}\" is not absolute", path.display()));
        }
        if !self.s3_endpoint.is_empty()
            && !["http://", "https://"].iter().any(|scheme| self.s3_endpoint.starts_with(scheme))
        {
            return Err(format!("invalid \"lazy.s3_endpoint\": \"{}\" is no http(s) URL", self.s3_endpoint));
        }
        let begins = ["http://", "https://", "s3://", "ssh://", "sftp://", "docker://", "/"];
        let is_source = |source: &&String| begins.iter().any(|begin| source.starts_with(begin));
        match self.sources.iter().find(|source| !is_source(source)) {
            Some(source) => Err(format!(
                "invalid \"lazy.sources\": \"{source}\" is neither an http(s), s3, ssh or docker URL nor an absolute path"
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Config;

    #[test]
    fn values_out_of_their_range_are_refused() {
        for text in [
            "socket = \"lazy.sock\"",
            "ca_file = \"ca.pem\"",
            "sources = [\"ftp://images.site\"]",
            "s3_endpoint = \"s3.site\"",
            "s3_credentials = \"credentials\"",
            "ssh_known_hosts = \"known_hosts\"",
            "ssh_key = \"key\"",
            "registry_credentials = \"auth.json\"",
            "cache_size = 0",
            "timeout = 3601",
        ] {
            let error = Config::parse(&format!("stores = [\"/s\"]\n[lazy]\n{text}")).unwrap_err();
            assert!(!error.1.contains('\n'), "{text}");
        }
    }
}
