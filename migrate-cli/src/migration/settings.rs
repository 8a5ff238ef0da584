//! Settings of the conversion, and its limits on this machine.

use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread::available_parallelism;

use anyhow::ensure;
use parallax_format::LayerFormat;
use parallax_layers::{Compression, ErofsOptions, Limits, Owners, SquashfsOptions};

use crate::units;

/// Memory in bytes that one layer needs besides mksquashfs: buffers, and the names of some hundred thousand files.
const BESIDE: u64 = 64 << 20;
/// Minimum memory of mksquashfs in bytes.
const MIN_MKSQUASHFS: u64 = 16 << 20;
/// Assumed free memory in bytes if the kernel does not report it.
const UNKNOWN_MEMORY: u64 = 2 << 30;

/// Options of `parallax migrate` for the conversion.
#[derive(Debug, clap::Args)]
pub struct SettingsOptions {
    /// Format of the layers' files: squashfs, erofs, or squashfs,erofs for both; nodes take the one that is faster there
    /// [default: squashfs]
    #[arg(long, value_name = "FORMAT", value_parser = formats)]
    format: Option<Formats>,
    /// Compression: zstd[:1-22], lz4[:hc], gzip[:1-9], xz or none [default: zstd:3]
    #[arg(long, value_name = "METHOD", value_parser = compression)]
    #[allow(rustdoc::broken_intra_doc_links, reason = "the text is the command's help, and [:hc] is no link")]
    compression: Option<Compression>,
    /// Size of a compressed block: a power of two from 4KiB to 1MiB [default: 128KiB, with EROFS 64KiB]
    #[arg(long, value_name = "SIZE", value_parser = block_size)]
    block_size: Option<u32>,
    /// Number of threads that compress a layer [default: number of processors]
    #[arg(long, value_name = "N")]
    processors: Option<NonZeroUsize>,
    /// Number of layers converted at once [default: as --processors, limited by --max-memory]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Maximum memory to use [default: half of the free memory]
    #[arg(long, value_name = "SIZE", value_parser = units::parse)]
    max_memory: Option<u64>,
    /// Maximum unpacked size of a layer, such as 200GB or 4TiB [default: 1TiB]
    #[arg(long, value_name = "SIZE", default_value_t = Limits::default().bytes, hide_default_value = true,
        value_parser = units::parse)]
    max_layer_size: u64,
    /// Maximum number of files and directories of a layer
    #[arg(long, value_name = "N", default_value_t = Limits::default().entries)]
    max_layer_entries: u64,
    /// Replace user and group ids above 65535 by 0, each independently: users have no subordinate ids for them
    #[arg(long)]
    squash_owners: bool,
}

/// Formats of a layer's files, at least one.
pub type Formats = &'static [LayerFormat];

/// Settings derived from the options and the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Formats of the layers' files.
    pub formats: Formats,
    /// `true` if the user specified the formats.
    pub asked_formats: bool,
    /// Options of mksquashfs.
    pub squashfs: SquashfsOptions,
    /// Options of mkfs.erofs.
    pub erofs: ErofsOptions,
    /// Limits of a layer.
    pub limits: Limits,
    /// Handling of owners above the usual range of subordinate ids.
    pub owners: Owners,
    /// Number of layers converted at once.
    pub jobs: usize,
    /// `true` if the user specified the compression or the block size.
    pub asked: bool,
}

impl SettingsOptions {
    /// Returns the settings on this machine.
    ///
    /// # Errors
    /// If the memory is not enough for one layer.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let processors = self.processors.or(available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
        let memory = self.max_memory.unwrap_or_else(|| free_memory().unwrap_or(UNKNOWN_MEMORY) / 2);
        let (default, erofs) = (SquashfsOptions::default(), ErofsOptions::default());
        let (jobs, memory_mib) = share(memory, self.jobs.unwrap_or(processors).get(), default.memory_mib);
        ensure!(
            memory_mib >= MIN_MKSQUASHFS >> 20,
            "{} of memory are not enough for one layer; --max-memory must be at least {}",
            units::bytes(memory),
            units::bytes(MIN_MKSQUASHFS + BESIDE)
        );
        Ok(Settings {
            formats: self.format.unwrap_or(&[LayerFormat::Squashfs]),
            asked_formats: self.format.is_some(),
            squashfs: SquashfsOptions {
                compression: self.compression.unwrap_or(default.compression),
                raw_data: false,
                raw_fragments: false,
                block_size: self.block_size.unwrap_or(default.block_size),
                processors,
                memory_mib: u32::try_from(memory_mib)?,
            },
            erofs: ErofsOptions {
                compression: self.compression.unwrap_or(erofs.compression),
                cluster_size: self.block_size.unwrap_or(erofs.cluster_size),
                processors,
            },
            limits: Limits { bytes: self.max_layer_size, entries: self.max_layer_entries },
            owners: if self.squash_owners { Owners::Squash } else { Owners::Keep },
            jobs,
            asked: self.compression.is_some() || self.block_size.is_some(),
        })
    }
}

/// Returns the number of layers to convert at once, and the MiB for each mksquashfs.
fn share(memory: u64, jobs: usize, full_mib: u32) -> (usize, u64) {
    let full = u64::from(full_mib) << 20;
    let fitting = usize::try_from(memory / (full + BESIDE)).unwrap_or(usize::MAX);
    let for_one = memory.saturating_sub(BESIDE).min(full) >> 20;
    (jobs.min(fitting).max(1), for_one)
}

/// Returns the free memory in bytes, of the machine or within the control group's limit.
fn free_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let available = line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10;
    Some(group_memory().map_or(available, |limit| available.min(limit)))
}

/// Returns the limit of this process's control group minus the group's use.
fn group_memory() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let directory = PathBuf::from("/sys/fs/cgroup").join(group);
    let number = |name: &str| fs::read_to_string(directory.join(name)).ok()?.trim().parse::<u64>().ok();
    Some(number("memory.max")?.saturating_sub(number("memory.current")?))
}

/// Parses the value of `--format`.
fn formats(text: &str) -> Result<Formats, String> {
    let asked: Option<Vec<LayerFormat>> = text.split(',').map(LayerFormat::named).collect();
    match asked.as_deref() {
        Some([LayerFormat::Squashfs]) => Ok(&[LayerFormat::Squashfs]),
        Some([LayerFormat::Erofs]) => Ok(&[LayerFormat::Erofs]),
        Some([one, other]) if one != other => Ok(&LayerFormat::ALL),
        _ => Err("invalid format: must be squashfs, erofs or squashfs,erofs".to_owned()),
    }
}

/// Parses the value of `--compression`.
pub(crate) fn compression(text: &str) -> Result<Compression, String> {
    match text.split_once(':') {
        None if text == "zstd" => Ok(Compression::Zstd(3)),
        None if text == "lz4" => Ok(Compression::Lz4 { high: false }),
        None if text == "gzip" => Ok(Compression::Gzip(9)),
        None if text == "xz" => Ok(Compression::Xz),
        None if text == "none" => Ok(Compression::None),
        Some(("zstd", level)) => {
            let level = level.parse().ok().filter(|level| (1..=22).contains(level));
            level.map(Compression::Zstd).ok_or_else(|| "levels of zstd are 1 to 22".to_owned())
        }
        Some(("gzip", level)) => {
            let level = level.parse().ok().filter(|level| (1..=9).contains(level));
            level.map(Compression::Gzip).ok_or_else(|| "levels of gzip are 1 to 9".to_owned())
        }
        Some(("lz4", "hc")) => Ok(Compression::Lz4 { high: true }),
        _ => Err("invalid compression: must be zstd[:LEVEL], lz4[:hc], gzip[:LEVEL], xz or none".to_owned()),
    }
}

fn block_size(text: &str) -> Result<u32, String> {
    let size = units::parse(text)?;
    let size = u32::try_from(size).ok().filter(|size| size.is_power_of_two() && (4 << 10..=1 << 20).contains(size));
    size.ok_or_else(|| "invalid block size: must be a power of two from 4KiB to 1MiB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_asked_for() {
        assert_eq!(compression("zstd:19"), Ok(Compression::Zstd(19)));
        assert_eq!(compression("none"), Ok(Compression::None));
        assert_eq!(compression("gzip"), compression("gzip:9"));
        assert_eq!(compression("lz4:hc"), Ok(Compression::Lz4 { high: true }));
        for bad in ["zstd:0", "zstd:23", "zstd:", "lz4:1", "gzip:10", "xz:6", "lzo", ""] {
            assert!(compression(bad).is_err(), "{bad}");
        }
        assert_eq!(formats("erofs"), Ok(&[LayerFormat::Erofs][..]));
        assert_eq!(formats("erofs,squashfs"), formats("squashfs,erofs"));
        for bad in ["", "ext4", "erofs,", "erofs,erofs", "squashfs,erofs,squashfs"] {
            assert!(formats(bad).is_err(), "{bad}");
        }
        assert_eq!(block_size("1MiB"), Ok(1 << 20));
        assert_eq!(block_size("131072"), Ok(128 << 10));
        for bad in ["2MiB", "100000", "2KiB", "x"] {
            assert!(block_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn memory_bounds_how_many_run_at_once() {
        assert_eq!(share(10 << 30, 4, 128), (4, 128));
        assert_eq!(share(400 << 20, 4, 128), (2, 128));
        assert_eq!(share(100 << 20, 4, 128), (1, 36));
        assert_eq!(share(1 << 20, 4, 128), (1, 0));
        assert!(free_memory().unwrap() > 0);
    }
}
