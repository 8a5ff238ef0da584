//! A layer's file that is mounted in one of several ways, of which nothing is in memory, and a task in it: made on the node, as root.

use std::fs::{self, File};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sched::{CloneFlags, unshare};
use parallax_sys::loop_device::{LoopDevice, Reads};
use parallax_sys::mount::DetachedMount;
use rustix::fs::{major, minor};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use serde::{Deserialize, Serialize};

use super::slow_file::{SlowFile, THREADS};

/// What is measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Case {
    /// The layer's file.
    pub(crate) file: PathBuf,
    /// The time before each answer of the file's source, and the source's readahead in KiB; without them the file is read where it is.
    pub(crate) source: Option<(Duration, u32)>,
    /// Whether the loop device reads past the page cache.
    pub(crate) direct: bool,
    /// Readahead of the loop device in KiB, which is SquashFS's.
    pub(crate) readahead: u32,
    /// A command line in the layer's root directory.
    pub(crate) task: String,
}

/// What was found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Found {
    /// The time of the mount and the task.
    pub(crate) seconds: f64,
    /// Requests that the source got, and their bytes.
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    /// Bytes of the file that are in memory afterwards.
    pub(crate) cached: u64,
    /// Bytes by which all of the page cache has grown, with what is unpacked.
    pub(crate) grown: u64,
}

/// Prints how many bytes of a file are in memory, by `cachestat(2)`: no program of the node does.
const CACHED: &str = r#"open(my $file, "<", $ARGV[0]) or die "$ARGV[0]: $!\n";
my ($range, $found) = (pack("QQ", 0, 0), "\0" x 40);
syscall(451, fileno($file), $range, $found, 0) == 0 or die "cachestat: $!\n";
print unpack("Q", $found);"#;

const ROOT: &str = "/mnt";

/// Measures a case, in a mount namespace of this process's own.
///
/// # Errors
/// Something cannot be mounted, read or set.
pub(crate) fn run(case: &Case) -> anyhow::Result<Found> {
    unshare(CloneFlags::CLONE_NEWNS).context("no mount namespace")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let serve = |(latency, _)| SlowFile::serve(fs::read(&case.file)?.into(), latency, None, THREADS);
    let slow = case.source.map(serve).transpose()?;
    let file = match (&slow, case.source) {
        (Some(slow), Some((_, readahead))) => slow.open(readahead)?,
        _ => File::open(&case.file)?,
    };
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    // The node's programs are in memory then, as they are on a node that runs.
    shell("/", "true | xargs -0 cat; find /proc/self/ns >/dev/null; chroot / sh -c true")?;
    let counts = || slow.as_ref().map_or_else(|| disk(&file), |slow| Ok(slow.counts()));
    let (before, cache) = (counts()?, page_cache()?);
    let begun = Instant::now();
    let reads = if case.direct { Reads::Direct } else { Reads::Buffered };
    let device = LoopDevice::attach(file.as_fd(), reads)?;
    let usual = Readahead::set(&device, case.readahead)?;
    DetachedMount::squashfs(device.path())?.attach_at(Path::new(ROOT))?;
    let temporary = Path::new(ROOT).join("tmp");
    DetachedMount::tmpfs(&[("mode", "0755")])?.attach_at(&temporary)?;
    shell(ROOT, &case.task)?;
    let seconds = begun.elapsed().as_secs_f64();
    let (after, grown) = (counts()?, page_cache()?.saturating_sub(cache));
    let cached = cached(&file)?;
    unmount(&temporary, UnmountFlags::empty())?;
    unmount(ROOT, UnmountFlags::empty())?;
    drop((usual, device, file));
    if let Some(slow) = slow {
        slow.end();
    }
    Ok(Found { seconds, requests: after[0] - before[0], bytes: after[1] - before[1], cached, grown })
}

/// Mounts an EROFS file without a loop device, which `mount` would make.
///
/// # Errors
/// Those of the kernel.
pub(crate) fn mount_erofs(file: &Path, target: &Path) -> anyhow::Result<()> {
    Ok(DetachedMount::erofs_file(File::open(file)?.as_fd(), false)?.attach_at(target)?)
}

fn shell(directory: &str, line: &str) -> anyhow::Result<()> {
    let mut command = Command::new("sh");
    command.args(["-euc", line]).current_dir(directory).stdin(Stdio::null()).stdout(Stdio::null());
    let done = command.output()?;
    ensure!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// The requests that the disk below a file has got, and their bytes. Whatever else reads it is among them.
fn disk(file: &File) -> anyhow::Result<[u64; 2]> {
    let device = file.metadata()?.dev();
    let path = format!("/sys/dev/block/{}:{}/stat", major(device), minor(device));
    let text = fs::read_to_string(&path).context(path)?;
    let numbers: Vec<u64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    Ok([numbers[0], numbers[2] * 512])
}

/// The size of the page cache in bytes.
fn page_cache() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let number = |key: &str| -> anyhow::Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).context("no such line in meminfo")?;
        Ok(line.split_whitespace().next().context("no number")?.parse()?)
    };
    Ok((number("Cached:")? + number("Buffers:")?) * 1024)
}

fn cached(file: &File) -> anyhow::Result<u64> {
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let done = Command::new("perl").args(["-e", CACHED, &path]).output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let pages: u64 = String::from_utf8(done.stdout)?.trim().parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// A device's readahead, which is what it was when this value is dropped: the device's number serves others then.
struct Readahead {
    setting: String,
    usual: String,
}

impl Readahead {
    fn set(device: &LoopDevice, readahead: u32) -> anyhow::Result<Self> {
        let name = device.path().strip_prefix("/dev/").context("no device")?;
        let setting = format!("/sys/block/{name}/queue/read_ahead_kb");
        let usual = fs::read_to_string(&setting).with_context(|| setting.clone())?;
        fs::write(&setting, readahead.to_string())?;
        Ok(Self { setting, usual })
    }
}

impl Drop for Readahead {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.setting, &self.usual) {
            eprintln!("bench: {} is not as it was: {error}", self.setting);
        }
    }
}
