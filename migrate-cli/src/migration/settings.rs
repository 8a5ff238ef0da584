//! How layers are written, and what writing them may use of this machine.

use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread::available_parallelism;

use anyhow::ensure;
use parallax_layers::{Compression, Limits, Owners, SquashfsOptions};

use crate::units;

/// What one layer takes beside mksquashfs: buffers, and the names of some hundred thousand files.
const BESIDE: u64 = 64 << 20;
/// The least that mksquashfs works with.
const LEAST: u64 = 16 << 20;
/// What is assumed to be there if the kernel does not tell.
const UNKNOWN_MEMORY: u64 = 2 << 30;

/// What `parallax migrate` takes on this.
#[derive(Debug, clap::Args)]
pub struct SettingsOptions {
    /// How files are compressed: zstd[:1-22], lz4[:hc], gzip[:1-9], xz or none [default: zstd:3]
    #[arg(long, value_name = "METHOD", value_parser = compression)]
    compression: Option<Compression>,
    /// The size of a compressed block: a power of two from 4KiB to 1MiB [default: 128KiB]
    #[arg(long, value_name = "SIZE", value_parser = block_size)]
    block_size: Option<u32>,
    /// How many threads compress a layer [default: as many as there are processors]
    #[arg(long, value_name = "N")]
    processors: Option<NonZeroUsize>,
    /// How many layers are converted at once [default: as many as --processors, and as there is memory for]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// The most memory to use for it [default: half of what is free]
    #[arg(long, value_name = "SIZE", value_parser = units::parse)]
    max_memory: Option<u64>,
    /// The most a layer may unpack to, such as 200GB or 4TiB
    #[arg(long, value_name = "SIZE", default_value_t = Limits::default().bytes, hide_default_value = true,
        value_parser = units::parse)]
    max_layer_size: u64,
    /// The most files and directories a layer may have
    #[arg(long, value_name = "N", default_value_t = Limits::default().entries)]
    max_layer_entries: u64,
    /// Make files root's whose user or group id is above 65535, each id by itself: users have no ids for them
    #[arg(long)]
    squash_owners: bool,
}

/// What follows from the options and the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How SquashFS files are made.
    pub squashfs: SquashfsOptions,
    /// What a layer may hold.
    pub limits: Limits,
    /// What becomes of owners that users have no ids for.
    pub owners: Owners,
    /// How many layers are converted at once.
    pub jobs: usize,
    /// Whether the user asked for the compression or the block size.
    pub asked: bool,
}

impl SettingsOptions {
    /// The settings on this machine.
    ///
    /// # Errors
    /// If the memory is too little for one layer.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let processors = self.processors.or(available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
        let memory = self.max_memory.unwrap_or_else(|| free_memory().unwrap_or(UNKNOWN_MEMORY) / 2);
        let default = SquashfsOptions::default();
        let (jobs, memory_mib) = share(memory, self.jobs.unwrap_or(processors).get(), default.memory_mib);
        ensure!(
            memory_mib >= LEAST >> 20,
            "{} of memory are too little for one layer; --max-memory must be {} or more",
            units::bytes(memory),
            units::bytes(LEAST + BESIDE)
        );
        Ok(Settings {
            squashfs: SquashfsOptions {
                compression: self.compression.unwrap_or(default.compression),
                raw_data: false,
                raw_fragments: false,
                block_size: self.block_size.unwrap_or(default.block_size),
                processors,
                memory_mib: u32::try_from(memory_mib)?,
            },
            limits: Limits { bytes: self.max_layer_size, entries: self.max_layer_entries },
            owners: if self.squash_owners { Owners::Squash } else { Owners::Keep },
            jobs,
            asked: self.compression.is_some() || self.block_size.is_some(),
        })
    }
}

/// How many layers can be converted at once, and how many MiB mksquashfs gets for each.
fn share(memory: u64, jobs: usize, full_mib: u32) -> (usize, u64) {
    let full = u64::from(full_mib) << 20;
    let fitting = usize::try_from(memory / (full + BESIDE)).unwrap_or(usize::MAX);
    let for_one = memory.saturating_sub(BESIDE).min(full) >> 20;
    (jobs.min(fitting).max(1), for_one)
}

/// What the machine, or the control group, has left of memory in bytes.
fn free_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let available = line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10;
    Some(group_memory().map_or(available, |limit| available.min(limit)))
}

/// The limit of this process's control group, less what the group uses.
fn group_memory() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let directory = PathBuf::from("/sys/fs/cgroup").join(group);
    let number = |name: &str| fs::read_to_string(directory.join(name)).ok()?.trim().parse::<u64>().ok();
    Some(number("memory.max")?.saturating_sub(number("memory.current")?))
}

/// Reads a compression as `--compression` takes it.
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
        _ => Err("there are zstd[:LEVEL], lz4[:hc], gzip[:LEVEL], xz and none".to_owned()),
    }
}

fn block_size(text: &str) -> Result<u32, String> {
    let size = units::parse(text)?;
    let size = u32::try_from(size).ok().filter(|size| size.is_power_of_two() && (4 << 10..=1 << 20).contains(size));
    size.ok_or_else(|| "a block is 4KiB, 8KiB and so on to 1MiB".to_owned())
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
