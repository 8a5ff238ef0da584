//! The mount of a metadata image over the directory of its files, and walks through both: made on the node, as root.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use nix::sched::{CloneFlags, unshare};
use parallax_sys::loop_device::{LoopDevice, Reads};
use parallax_sys::mount::DetachedMount;
use rustix::mount::{MountPropagationFlags, mount_change};
use serde::{Deserialize, Serialize};

/// What was measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// The time of each mount of the overlay, in milliseconds.
    pub(crate) mounts: Vec<f64>,
    /// The time of `find` in the mounted image / in the directory, both in memory, one after the other.
    pub(crate) find: Vec<f64>,
    /// The time of listing all names with nothing else.
    pub(crate) names: Vec<f64>,
    /// The same with a look at each file.
    pub(crate) attributes: Vec<f64>,
    /// The same with all files read.
    pub(crate) contents: Vec<f64>,
}

/// Measures a metadata image over a directory, and prints it as JSON.
///
/// # Errors
/// If something cannot be mounted or read.
pub(crate) fn run(image: &Path, tree: &Path, rounds: usize) -> anyhow::Result<()> {
    let place = Place::make(image)?;
    let (metadata, data) = (File::open(&place.metadata)?, File::open(tree)?);
    let mount = || DetachedMount::metadata_overlay(metadata.as_fd(), data.as_fd());
    let mut measured = Measured::default();
    for _ in 0..rounds * 10 {
        let begun = Instant::now();
        let mounted = mount()?;
        measured.mounts.push(begun.elapsed().as_secs_f64() * 1e3);
        drop(mounted);
    }
    mount()?.attach_at(&place.merged)?;
    for directory in [place.merged.as_path(), tree] {
        walk(directory, Of::Contents)?;
    }
    for _ in 0..rounds {
        let ratio = |of| -> anyhow::Result<f64> { Ok(walk(&place.merged, of)? / walk(tree, of)?) };
        measured.find.push(find(&place.merged)? / find(tree)?);
        measured.names.push(ratio(Of::Names)?);
        measured.attributes.push(ratio(Of::Attributes)?);
        measured.contents.push(ratio(Of::Contents)?);
    }
    Ok(serde_json::to_writer(io::stdout(), &measured)?)
}

/// Where the mounts are made: a tmpfs of a mount namespace of this process's own, with which all of it goes.
struct Place {
    metadata: PathBuf,
    merged: PathBuf,
}

impl Place {
    fn make(image: &Path) -> anyhow::Result<Self> {
        unshare(CloneFlags::CLONE_NEWNS).context("no mount namespace")?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        DetachedMount::tmpfs(&[("mode", "0755")])?.attach_at(Path::new("/mnt"))?;
        let [metadata, merged] = ["metadata", "merged"].map(|name| Path::new("/mnt").join(name));
        fs::create_dir(&metadata)?;
        fs::create_dir(&merged)?;
        let device = LoopDevice::attach(File::open(image)?.as_fd(), Reads::Buffered)?;
        DetachedMount::squashfs(device.path())?.attach_at(&metadata)?;
        Ok(Self { metadata, merged })
    }
}

/// Has `find` print all names; returns the time in seconds.
fn find(directory: &Path) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let status = Command::new("find").arg(directory).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "find {}: {status}", directory.display());
    Ok(begun.elapsed().as_secs_f64())
}

/// What a walk asks of each file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// Nothing but what is in its directory, which is less than `find` asks.
    Names,
    Attributes,
    Contents,
}

/// Walks through all files of a directory; returns the time in seconds.
fn walk(directory: &Path, of: Of) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if of != Of::Names {
                entry.metadata()?;
            }
            if kind.is_dir() {
                left.push(entry.path());
            } else if of == Of::Contents && kind.is_file() {
                io::copy(&mut File::open(entry.path())?, &mut io::sink())?;
            }
        }
    }
    Ok(begun.elapsed().as_secs_f64())
}
