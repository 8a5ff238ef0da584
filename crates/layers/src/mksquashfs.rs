//! Runs `mksquashfs -tar` of squashfs-tools.
//!
//! sqfstar is the same program with another command line, whose version 4.5.1 takes the value of `-Xcompression-level` for the
//! file to write.

use std::num::NonZeroUsize;
use std::path::Path;
use std::process::Command;

use crate::compression::Compression;
use crate::error::ConvertError;
use crate::running::Running;
use crate::tar::entry::Meta;

const PROGRAM: &str = "mksquashfs";

/// The format of a SquashFS file, and the resources for making it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SquashfsOptions {
    /// The compression.
    pub compression: Compression,
    /// Store data blocks uncompressed, independent of the compression.
    pub raw_data: bool,
    /// Store fragments (the ends of files) uncompressed, independent of the compression.
    pub raw_fragments: bool,
    /// The size of a data block in bytes: a power of two from 4 KiB to 1 MiB.
    pub block_size: u32,
    /// Number of threads that compress.
    pub processors: NonZeroUsize,
    /// Limit for the memory of mksquashfs's queues and caches, in MiB.
    pub memory_mib: u32,
}

impl Default for SquashfsOptions {
    fn default() -> Self {
        Self {
            compression: Compression::Zstd(3),
            raw_data: false,
            raw_fragments: false,
            block_size: 128 << 10,
            processors: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            memory_mib: 128,
        }
    }
}

/// The mksquashfs of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mksquashfs {
    version: Version,
}

/// A version of squashfs-tools, such as 4.5.1; missing numbers are 0.
type Version = (u32, u32, u32);

impl Mksquashfs {
    /// The first version that reads tar archives.
    const OLDEST: Version = (4, 5, 0);
    /// The first version that supports `-root-uid`, `-root-gid` and `-root-time`.
    const SETS_ROOT: Version = (4, 6, 0);
    /// The last version whose tar reader may use a hard link's entry after freeing it.
    const LAST_WITH_LINK_DEFECT: Version = (4, 7, 5);

    /// Runs `mksquashfs -version`.
    ///
    /// # Errors
    /// [`ConvertError::NoTool`] if it is missing or too old.
    pub fn find() -> Result<Self, ConvertError> {
        let output = Command::new(PROGRAM)
            .arg("-version")
            .output()
            .map_err(|error| ConvertError::NoTool(format!("mksquashfs cannot be run: {error}")))?;
        Self::parse(&String::from_utf8_lossy(&output.stdout))
    }

    /// Parses the output of `mksquashfs -version`.
    ///
    /// # Errors
    /// [`ConvertError::NoTool`] if the version is too old or missing.
    pub fn parse(text: &str) -> Result<Self, ConvertError> {
        let version = parse_version(text)
            .ok_or_else(|| ConvertError::NoTool("mksquashfs does not print its version".to_owned()))?;
        if version < Self::OLDEST {
            return Err(ConvertError::NoTool(format!("mksquashfs is too old ({}.{})", version.0, version.1)));
        }
        Ok(Self { version })
    }

    /// Returns the version in the form of squashfs-tools.
    #[must_use]
    pub fn version(self) -> String {
        let (major, minor, patch) = self.version;
        if patch == 0 { format!("{major}.{minor}") } else { format!("{major}.{minor}.{patch}") }
    }

    /// Returns `true` if the file of a layer with hard links may be corrupt: versions up to 4.7.5 may take headers that follow a
    /// hard link for the data of a file.
    #[must_use]
    pub fn has_link_defect(self) -> bool {
        self.version <= Self::LAST_WITH_LINK_DEFECT
    }

    /// Returns `true` if the root directory has the time that it is to have; else it has the current time.
    #[cfg(test)]
    pub(crate) fn sets_root_time(self) -> bool {
        self.version >= Self::SETS_ROOT
    }

    /// Starts mksquashfs, which reads a tar archive and writes `file`.
    pub(crate) fn start(self, file: &Path, options: &SquashfsOptions, root: &Meta) -> Result<Running, ConvertError> {
        let mut command = self.command(root, file);
        // Conflicts with -mkfs-time, and would make times depend on the caller.
        command.args(arguments(options)).env_remove("SOURCE_DATE_EPOCH");
        Running::start(PROGRAM, command)
            .map_err(|error| ConvertError::NoTool(format!("mksquashfs cannot be run: {error}")))
    }

    /// Returns the command with the options for the root directory's attributes.
    ///
    /// mksquashfs 4.5 takes the root's owner from its own user id and ignores `-root-uid`, so it runs in a user
    /// namespace in which it has that id. Its root always gets the current time.
    fn command(self, root: &Meta, file: &Path) -> Command {
        let (uid, gid) = (root.uid.to_string(), root.gid.to_string());
        let mode = format!("{:o}", root.mode);
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let mut command = if self.version >= Self::SETS_ROOT || own == (root.uid, root.gid) {
            Command::new(PROGRAM)
        } else {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-user", &uid, "--map-group", &gid, "--", PROGRAM]);
            command
        };
        command.arg("-").arg(file).arg("-tar");
        if self.version >= Self::SETS_ROOT {
            let time = root.mtime.clamp(0, i64::from(u32::MAX)).to_string();
            command.args(["-root-uid", &uid, "-root-gid", &gid, "-root-time", &time]);
        }
        command.args(["-root-mode", &mode]);
        command
    }
}

fn arguments(options: &SquashfsOptions) -> Vec<String> {
    let SquashfsOptions { compression, raw_data, raw_fragments, .. } = *options;
    let is_none = compression == Compression::None;
    // Metadata is compressed in any case.
    let method = if is_none { "zstd" } else { compression.method() };
    let mut arguments = vec!["-comp".to_owned(), method.to_owned()];
    match compression {
        Compression::Zstd(level) | Compression::Gzip(level) => {
            arguments.extend(["-Xcompression-level".to_owned(), level.to_string()]);
        }
        Compression::Lz4 { high: true } => arguments.push("-Xhc".to_owned()),
        Compression::Lz4 { high: false } | Compression::Xz | Compression::None => {}
    }
    arguments.extend((raw_data || is_none).then(|| "-noD".to_owned()));
    arguments.extend((raw_fragments || is_none).then(|| "-noF".to_owned()));
    let sizes = [
        ("-b", options.block_size.to_string()),
        ("-processors", options.processors.to_string()),
        ("-mem", format!("{}M", options.memory_mib)),
        // The same layer must give the same bytes.
        ("-mkfs-time", "0".to_owned()),
    ];
    arguments.extend(sizes.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
    // Without -exit-on-error mksquashfs leaves out a link that it cannot make, with a message only.
    arguments.extend(["-exit-on-error", "-no-exports", "-no-recovery", "-quiet", "-no-progress"].map(str::to_owned));
    arguments
}

fn parse_version(text: &str) -> Option<Version> {
    let version = text.split_whitespace().skip_while(|word| *word != "version").nth(1)?;
    let mut numbers = version.split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next().and_then(Result::ok).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_as_it_is_keeps_the_compression_of_the_rest() {
        let words = |compression, raw_data, raw_fragments| {
            let options = SquashfsOptions { compression, raw_data, raw_fragments, ..SquashfsOptions::default() };
            arguments(&options).into_iter().take_while(|word| word != "-b").collect::<Vec<_>>().join(" ")
        };
        assert_eq!(words(Compression::Zstd(3), true, false), "-comp zstd -Xcompression-level 3 -noD");
        assert_eq!(words(Compression::Gzip(9), false, true), "-comp gzip -Xcompression-level 9 -noF");
        assert_eq!(words(Compression::Lz4 { high: true }, false, false), "-comp lz4 -Xhc");
        assert_eq!(words(Compression::Xz, false, false), "-comp xz");
        assert_eq!(words(Compression::None, false, false), "-comp zstd -noD -noF");
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_version("mksquashfs version 4.5.1 (2022/03/17)\ncopyright"), Some((4, 5, 1)));
        assert_eq!(parse_version("mksquashfs version 4.7-git (2025/01/01)"), Some((4, 7, 0)));
        assert_eq!(parse_version("something"), None);
        let has_defect = |version| Mksquashfs { version }.has_link_defect();
        assert!(has_defect((4, 5, 1)) && has_defect((4, 7, 5)) && !has_defect((4, 7, 6)) && !has_defect((5, 0, 0)));
    }
}
