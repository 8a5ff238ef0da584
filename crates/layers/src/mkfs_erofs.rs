//! Runs `mkfs.erofs --tar=f` of erofs-utils.
//!
//! Only ever on the archive that `convert/emit.rs` writes: mkfs.erofs takes members of GNU's sparse format for something else and
//! still exits with 0. Whiteouts and opaque marks are in that archive as overlayfs wants them, so `--aufs`, which would write opaque
//! marks in `trusted.` alone, is not used. `tar` with whiteouts and attributes is right from 1.8.9 on.

use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::compression::Compression;
use crate::error::ConvertError;
use crate::running::Running;

const PROGRAM: &str = "mkfs.erofs";

/// The format of an EROFS file, and the resources for making it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErofsOptions {
    /// The compression.
    pub compression: Compression,
    /// Maximum size in bytes of a cluster that is decompressed at once.
    pub cluster_size: u32,
    /// Number of threads that compress.
    pub processors: NonZeroUsize,
}

impl Default for ErofsOptions {
    fn default() -> Self {
        Self {
            compression: Compression::Zstd(3),
            cluster_size: 64 << 10,
            processors: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        }
    }
}

/// A version of erofs-utils, such as 1.8.9; missing numbers are 0.
type Version = (u32, u32, u32);

/// The mkfs.erofs of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MkfsErofs {
    version: Version,
}

impl MkfsErofs {
    /// The first version whose tar reader is right.
    const OLDEST: Version = (1, 8, 9);

    /// Runs `mkfs.erofs -V`.
    ///
    /// # Errors
    /// [`ConvertError::NoMkfs`] if it is missing or too old.
    pub fn find() -> Result<Self, ConvertError> {
        let output = Command::new(PROGRAM)
            .arg("-V")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| ConvertError::NoMkfs(format!("mkfs.erofs cannot be run: {error}")))?;
        // Old versions print it on standard error.
        let text = [output.stdout, output.stderr].concat();
        Self::parse(&String::from_utf8_lossy(&text))
    }

    /// Parses the output of `mkfs.erofs -V`.
    ///
    /// # Errors
    /// [`ConvertError::NoMkfs`] if the version is too old or missing.
    pub fn parse(text: &str) -> Result<Self, ConvertError> {
        let missing = || ConvertError::NoMkfs("mkfs.erofs does not print its version".to_owned());
        let version = text.split_whitespace().find_map(parse_version).ok_or_else(missing)?;
        let found = Self { version };
        if version < Self::OLDEST {
            return Err(ConvertError::NoMkfs(format!("mkfs.erofs is too old ({})", found.version())));
        }
        Ok(found)
    }

    /// Returns the version in the form of erofs-utils.
    #[must_use]
    pub fn version(self) -> String {
        let (major, minor, patch) = self.version;
        if patch == 0 { format!("{major}.{minor}") } else { format!("{major}.{minor}.{patch}") }
    }

    /// Starts mkfs.erofs, which reads a tar archive, the root directory's entry included, and writes `file`.
    pub(crate) fn start(file: &Path, options: &ErofsOptions) -> Result<Running, ConvertError> {
        let mut command = Command::new(PROGRAM);
        command.args(arguments(options)).arg(file);
        // mkfs.erofs writes the files' contents to a file there first, since it lays them out when it knows all names.
        if let Some(directory) = file.parent() {
            command.env("TMPDIR", directory);
        }
        command.env_remove("SOURCE_DATE_EPOCH");
        Running::start(PROGRAM, command)
            .map_err(|error| ConvertError::NoMkfs(format!("mkfs.erofs cannot be run: {error}")))
    }
}

fn arguments(options: &ErofsOptions) -> Vec<String> {
    let ErofsOptions { compression, cluster_size, processors } = *options;
    let method = match compression {
        Compression::Zstd(level) => Some(format!("zstd,level={level}")),
        Compression::Lz4 { high: false } => Some("lz4".to_owned()),
        Compression::Lz4 { high: true } => Some("lz4hc".to_owned()),
        Compression::Gzip(level) => Some(format!("deflate,level={level}")),
        Compression::Xz => Some("lzma".to_owned()),
        Compression::None => None,
    };
    let mut arguments: Vec<String> = ["--quiet", "--tar=f", "-b4096"].map(str::to_owned).into();
    if let Some(method) = method {
        arguments.extend([format!("-z{method}"), format!("-C{cluster_size}")]);
    }
    // The same layer must give the same bytes, and files keep their own times.
    arguments.extend(["-T0", "--mkfs-time", "--preserve-mtime", "-Uclear"].map(str::to_owned));
    arguments.push(format!("--workers={processors}"));
    arguments
}

fn parse_version(word: &str) -> Option<Version> {
    let mut numbers = word.split(['.', '-']);
    let mut number = || numbers.next().map(str::parse::<u32>);
    let (major, minor) = (number()?.ok()?, number()?.ok()?);
    Some((major, minor, number().and_then(Result::ok).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_is_not_good_enough_is_refused_with_what_is_needed() {
        let parse = |text| MkfsErofs::parse(text).map(MkfsErofs::version).map_err(|error| error.to_string());
        assert_eq!(parse("mkfs.erofs (erofs-utils) 1.9.4\navailable compressors: lz4"), Ok("1.9.4".to_owned()));
        assert_eq!(parse("mkfs.erofs (erofs-utils) 1.8.9-g1234567"), Ok("1.8.9".to_owned()));
        assert_eq!(parse("mkfs.erofs (erofs-utils) 2.0"), Ok("2.0".to_owned()));
        let needed = "install erofs-utils 1.8.9 or newer, or migrate with --format squashfs";
        assert_eq!(parse("mkfs.erofs 1.5"), Err(format!("mkfs.erofs is too old (1.5); {needed}")));
        assert_eq!(parse("mkfs.erofs (erofs-utils) 1.8.6"), Err(format!("mkfs.erofs is too old (1.8.6); {needed}")));
        assert_eq!(parse("usage"), Err(format!("mkfs.erofs does not print its version; {needed}")));
    }

    #[test]
    fn compressions_have_their_names() {
        let first = |compression| {
            let options = ErofsOptions { compression, ..ErofsOptions::default() };
            arguments(&options).into_iter().find(|word| word.starts_with("-z"))
        };
        assert_eq!(first(Compression::Zstd(9)).as_deref(), Some("-zzstd,level=9"));
        assert_eq!(first(Compression::Lz4 { high: true }).as_deref(), Some("-zlz4hc"));
        assert_eq!(first(Compression::Gzip(6)).as_deref(), Some("-zdeflate,level=6"));
        assert_eq!(first(Compression::Xz).as_deref(), Some("-zlzma"));
        assert_eq!(first(Compression::None), None);
    }
}
