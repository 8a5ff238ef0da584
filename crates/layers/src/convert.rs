//! One layer, from its stream to its SquashFS file.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::thread;

use crate::content::ContentDigest;
use crate::decompress::digest;
use crate::error::ConvertError;
use crate::limits::Limits;
use crate::plan::Plan;
use crate::rewrite::{Seen, Stop, rewrite, rewrite_planned};
use crate::sqfstar::{Running, Sqfstar, SquashfsOptions};
use crate::stream::{self, Stream};
use crate::tar::{Meta, TarReader};

/// A layer to convert.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// The SHA-256 that the uncompressed stream must have, 64 hexadecimal digits.
    pub diff_id: &'a str,
    /// The SquashFS file to write. It must not exist; what is left there after an error is rubbish.
    pub file: &'a Path,
    /// How much the layer may hold.
    pub limits: Limits,
}

/// A layer that has been converted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// The size of the uncompressed tar stream in bytes.
    pub size: u64,
    /// The size of the SquashFS file in bytes.
    pub squashfs_size: u64,
    /// The SHA-256 of the SquashFS file, 64 hexadecimal digits.
    pub squashfs_sha256: String,
    /// What the SquashFS file holds, whatever it is compressed with: see [`crate::content_digest`].
    pub content: ContentDigest,
    /// The highest user id in the layer.
    pub max_uid: u32,
    /// The highest group id in the layer.
    pub max_gid: u32,
    /// Extended attributes that SquashFS cannot hold or that would disturb the overlay, such as POSIX ACLs.
    pub dropped_xattrs: BTreeSet<String>,
}

/// Converts one layer.
///
/// `open` gives the layer's stream, plain or compressed with gzip or zstd, from its start. It is called once, or, for a
/// layer in which later entries replace earlier ones, three times.
///
/// # Errors
/// [`ConvertError`]. The file is complete and durable only if there was none.
pub fn convert<R: Read + Send>(
    layer: Layer<'_>,
    tool: Sqfstar,
    options: &SquashfsOptions,
    mut open: impl FnMut() -> io::Result<R>,
) -> Result<Converted, ConvertError> {
    let Layer { diff_id, file, limits } = layer;
    let start = |root: &Meta| tool.start(file, options, root);
    let mut source = || open().map_err(ConvertError::Read);
    let written = match reading(source()?, diff_id, limits, |tar| rewrite(tar, limits, start)) {
        Err(Stop::NeedsPlan) => {
            remove_partial(file)?;
            let plan = reading(source()?, diff_id, limits, |tar| Ok(Plan::make(tar, limits)?));
            let (plan, _) = plan.map_err(Stop::into_error)?;
            reading(source()?, diff_id, limits, |tar| rewrite_planned(tar, plan, start))
        }
        done => done,
    };
    let ((running, seen), size) = written.map_err(Stop::into_error)?;
    finish(running, file, seen, size)
}

/// Waits for the file and takes its digest, which is done while it is made durable.
pub(crate) fn finish(running: Running, file: &Path, seen: Seen, size: u64) -> Result<Converted, ConvertError> {
    running.finish()?;
    let open = || File::open(file);
    let (synced, hashed) = thread::scope(|scope| {
        let synced = scope.spawn(|| open()?.sync_all());
        let hashed = open().and_then(digest);
        (synced.join(), hashed)
    });
    synced.unwrap_or_else(|_| Err(io::Error::other("a thread panicked"))).map_err(ConvertError::Write)?;
    let (squashfs_sha256, squashfs_size) = hashed.map_err(ConvertError::Write)?;
    let Seen { max_uid, max_gid, dropped_xattrs, content } = seen;
    let content = content.finish();
    Ok(Converted { size, squashfs_size, squashfs_sha256, content, max_uid, max_gid, dropped_xattrs })
}

/// One pass over the stream, with its digest checked, and the stream's size in bytes. What `work` returns is dropped if the
/// digest is wrong, which kills mksquashfs.
pub(crate) fn reading<R: Read + Send, T>(
    source: R,
    diff_id: &str,
    limits: Limits,
    work: impl FnOnce(&mut TarReader<Stream>) -> Result<T, Stop>,
) -> Result<(T, u64), Stop> {
    thread::scope(|scope| {
        let (stream, digest) = stream::start(scope, source, limits.bytes);
        let mut tar = TarReader::new(stream).limited_to(limits);
        let result = work(&mut tar)?;
        drop(tar);
        let failed = |_| Stop::from(ConvertError::Read(io::Error::other("a thread panicked")));
        let (found, size) = digest.join().map_err(failed)?;
        if found != diff_id {
            return Err(ConvertError::Digest { expected: diff_id.to_owned(), found }.into());
        }
        Ok((result, size))
    })
}

fn remove_partial(file: &Path) -> Result<(), ConvertError> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ConvertError::Write(error)),
        _ => Ok(()),
    }
}
