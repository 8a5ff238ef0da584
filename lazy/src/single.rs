//! One layer for one user, without an agent: the mount program starts this program for a layer that a store has in chunks only, and
//! squashfuse reads the file.
//!
//! There is no cache on a disk. What squashfuse has read stays in the kernel's page cache, as of any file. The process ends when squashfuse does.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::thread;

use anyhow::{Context as _, ensure};
use parallax_chunks::Index;
use parallax_config::{Config, ConfigError, Lazy};
use parallax_format::digest::Sha256;
use parallax_lazy_file::{Content, Device};
use serde::Deserialize;

use crate::configured;
use crate::connection::MAX_FILE;
use crate::source::directory::DirectorySource;
use crate::source::{Counted, Sources};
use crate::uncached::UncachedLayer;

/// Number of threads that answer: as many reads wait for chunks at a time.
const THREADS: usize = 8;

/// Serves the file that an index describes, until it is used by nothing any more. The standard input is its device.
///
/// # Errors
/// The configuration or the index cannot be used, or the device cannot be read.
pub fn serve(config: &Path, index: &Path, chunk_store: &Path) -> anyhow::Result<()> {
    let device = Device::from(io::stdin().as_fd().try_clone_to_owned()?);
    let config = match Config::load(config) {
        Ok(config) => config.lazy,
        Err(ConfigError::Read { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Lazy::default(),
        Err(error) => return Err(error.into()),
    };
    let layer = UncachedLayer::new(name(index), read_index(index)?, sources(&config, chunk_store));
    // The superblock, so that what cannot be read at all is said at the start.
    layer.read(&mut [0; 96], 0).with_context(|| format!("cannot read the layer of {}", index.display()))?;
    thread::scope(|scope| {
        let serve = || device.serve_without_slot(&layer);
        let threads: Vec<_> = (1..THREADS)
            .map_while(|_| thread::Builder::new().name("serve".to_owned()).spawn_scoped(scope, serve).ok())
            .collect();
        // Without further threads it takes longer.
        let served = serve();
        let others =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        others.fold(served, Result::and).context("cannot read /dev/fuse")
    })
}

fn read_index(path: &Path) -> anyhow::Result<Index> {
    let read = || -> anyhow::Result<Index> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        ensure!(bytes.len() as u64 <= MAX_FILE, "it is too large");
        Ok(Index::parse(&bytes)?)
    };
    read().with_context(|| format!("cannot use the index of chunks {}", path.display()))
}

/// Returns the SHA-256 of the layer's file, from its description beside the index. Without a description it is one that no registry has.
fn name(index: &Path) -> Sha256 {
    let description = File::open(index.with_extension("json")).ok();
    let found = description.and_then(|file| serde_json::from_reader(file.take(MAX_FILE)).ok());
    found.map_or(Sha256::from([0; 32]), |LayerName { squashfs_sha256 }| squashfs_sha256)
}

/// What a layer's description has of its file.
#[derive(Deserialize)]
struct LayerName {
    squashfs_sha256: Sha256,
}

/// Returns the configured chunk stores, and the one beside the index. Those that this user cannot use are left out.
fn sources(config: &Lazy, chunk_store: &Path) -> Sources {
    let usable = configured::each(config).into_iter().filter_map(|source| {
        source.inspect_err(|error| tracing::warn!("a configured chunk store is not used: {error}")).ok()
    });
    Sources::new(usable.collect()).with(Counted::new(DirectorySource::new(chunk_store)))
}

#[cfg(test)]
mod tests;
