//! One layer, from its stream to its SquashFS file.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::thread;

use super::below::{Below, Shape};
use super::entries::Seen;
use super::owners::{Owners, UnusualOwners};
use super::plan::Plan;
use super::rewrite::{Rules, Stop, rewrite, rewrite_planned};
use super::stream::{self, Stream};
use crate::content::ContentDigest;
use crate::decompress::digest;
use crate::error::ConvertError;
use crate::mksquashfs::{Mksquashfs, Running, SquashfsOptions};
use crate::tar::entry::Meta;
use crate::tar::limits::Limits;
use crate::tar::reader::TarReader;
use crate::tar::split::{TarSplit, TarSplitFile};
use crate::unpacked::content_digest;

/// A layer to convert.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// The SHA-256 that the uncompressed stream must have, 64 hexadecimal digits.
    pub diff_id: &'a str,
    /// The SquashFS file to write. It must not exist; what is left there after an error is rubbish.
    pub file: &'a Path,
    /// Where to write tar-split data, if that is wanted. What is there is replaced.
    pub tar_split: Option<&'a Path>,
    /// How much the layer may hold.
    pub limits: Limits,
    /// What becomes of owners that users have no ids for.
    pub owners: Owners,
    /// What the layers below have, if that is known and matters.
    pub below: Option<&'a Below>,
}

impl<'a> Layer<'a> {
    /// A layer to convert as it is.
    #[must_use]
    pub fn new(diff_id: &'a str, file: &'a Path) -> Self {
        Self { diff_id, file, tar_split: None, limits: Limits::default(), owners: Owners::Keep, below: None }
    }
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
    /// The owners that users have no ids for, as the layer has them.
    pub unusual_owners: UnusualOwners,
    /// What depends on the layers below.
    pub shape: Shape,
    /// The tar-split data, if it was wanted.
    pub tar_split: Option<TarSplitFile>,
    /// Why the SquashFS file could not be compared with the layer, where that had to be: see [`Mksquashfs::has_link_defect`].
    pub unchecked: Option<String>,
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
pub fn convert<R: io::Read + Send>(
    layer: Layer<'_>,
    tool: Mksquashfs,
    options: &SquashfsOptions,
    mut open: impl FnMut() -> io::Result<R>,
) -> Result<Converted, ConvertError> {
    let Layer { diff_id, file, tar_split, limits, owners, below } = layer;
    let rules = Rules { limits, owners, below };
    let split = || tar_split.map(TarSplit::create);
    let start = |root: &Meta| tool.start(file, options, root);
    let mut source = || open().map_err(ConvertError::Read);
    let written = match reading(source()?, diff_id, limits, split(), |tar| rewrite(tar, rules, start)) {
        Err(Stop::NeedsPlan) => {
            remove_partial(file)?;
            let plan = |tar: &mut TarReader<_>| Plan::make(tar, limits, owners).map_err(ConvertError::from);
            let Read { result: plan, .. } = reading(source()?, diff_id, limits, None, plan)?;
            reading(source()?, diff_id, limits, split(), |tar| rewrite_planned(tar, plan, rules, start))
        }
        done => done,
    };
    let Read { result: (running, seen), size, split } = written.map_err(Stop::into_error)?;
    finish(running, tool, file, seen, size, split)
}

/// Waits for the file and takes its digest, which is done while it is made durable.
pub(crate) fn finish(
    running: Running,
    tool: Mksquashfs,
    file: &Path,
    seen: Seen,
    size: u64,
    split: Option<TarSplit<'_>>,
) -> Result<Converted, ConvertError> {
    running.finish()?;
    let open = || File::open(file);
    let (synced, hashed) = thread::scope(|scope| {
        let synced = scope.spawn(|| open()?.sync_all());
        let hashed = open().and_then(digest);
        (synced.join(), hashed)
    });
    synced.unwrap_or_else(|_| Err(io::Error::other("a thread panicked"))).map_err(ConvertError::Write)?;
    let (squashfs_sha256, squashfs_size) = hashed.map_err(ConvertError::Write)?;
    let Seen { owners, shape, dropped_xattrs, content } = seen;
    let unchecked =
        if content.has_links() && tool.has_link_defect() { compare(file, &content.finish())? } else { None };
    Ok(Converted {
        size,
        squashfs_size,
        squashfs_sha256,
        content: content.finish(),
        max_uid: owners.max_uid,
        max_gid: owners.max_gid,
        unusual_owners: owners.unusual,
        shape,
        tar_split: split.map(TarSplit::finish).transpose()?,
        unchecked,
        dropped_xattrs,
    })
}

/// Compares what a SquashFS file holds with what it must hold, and returns why that was not possible.
fn compare(file: &Path, expected: &ContentDigest) -> Result<Option<String>, ConvertError> {
    match content_digest(file) {
        Ok(found) if found == *expected => Ok(None),
        Ok(_) => Err(ConvertError::Miswritten),
        Err(ConvertError::NoReader(reason)) => Ok(Some(ConvertError::NoReader(reason).to_string())),
        Err(error) => Err(error),
    }
}

/// What came of one pass over a stream.
pub(crate) struct Read<'s, T> {
    pub(crate) result: T,
    /// The stream's size in bytes.
    pub(crate) size: u64,
    pub(crate) split: Option<TarSplit<'s>>,
}

/// One pass over the stream, with its digest checked. What `work` returns is dropped if the
/// digest is wrong, which kills mksquashfs.
pub(crate) fn reading<'s, R: io::Read + Send, T, E: From<ConvertError>>(
    source: R,
    diff_id: &str,
    limits: Limits,
    split: Option<TarSplit<'s>>,
    work: impl FnOnce(&mut TarReader<'s, Stream>) -> Result<T, E>,
) -> Result<Read<'s, T>, E> {
    thread::scope(|scope| {
        let (stream, digest) = stream::start(scope, source, limits.bytes);
        let mut tar = TarReader::new(stream).limited_to(limits).split_to(split);
        let result = work(&mut tar)?;
        let split = tar.take_split();
        drop(tar);
        let failed = |_| E::from(ConvertError::Read(io::Error::other("a thread panicked")));
        let (found, size) = digest.join().map_err(failed)?;
        if found != diff_id {
            return Err(ConvertError::Digest { expected: diff_id.to_owned(), found }.into());
        }
        Ok(Read { result, size, split })
    })
}

fn remove_partial(file: &Path) -> Result<(), ConvertError> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ConvertError::Write(error)),
        _ => Ok(()),
    }
}
