//! Converts one layer from its stream to its file.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::thread;

use parallax_format::digest::Sha256;

use super::below::{Below, Shape};
use super::emit::root_entry;
use super::entries::Seen;
use super::owners::{Owners, UnusualOwners};
use super::plan::Plan;
use super::rewrite::{Rules, Stop, rewrite, rewrite_planned};
use super::stream::{self, Stream};
use crate::content::ContentDigest;
use crate::decompress::digest;
use crate::error::ConvertError;
use crate::fs_verity::fs_verity_digest;
use crate::maker::Maker;
use crate::running::Running;
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
    /// The file to write. It must not exist. After an error it may exist and is invalid.
    pub file: &'a Path,
    /// The file for tar-split data, if wanted. An existing file is replaced.
    pub tar_split: Option<&'a Path>,
    /// The limits for the layer.
    pub limits: Limits,
    /// The treatment of owners for which users have no ids.
    pub owners: Owners,
    /// Properties of the layers below, if known and relevant.
    pub below: Option<&'a Below>,
}

impl<'a> Layer<'a> {
    /// Returns a layer to convert unchanged, with default limits.
    #[must_use]
    pub fn new(diff_id: &'a str, file: &'a Path) -> Self {
        Self { diff_id, file, tar_split: None, limits: Limits::default(), owners: Owners::Keep, below: None }
    }
}

/// The result of converting a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// The size of the uncompressed tar stream in bytes.
    pub size: u64,
    /// The size of the file in bytes.
    pub squashfs_size: u64,
    /// The SHA-256 of the file.
    pub squashfs_sha256: Sha256,
    /// The digest by which the kernel checks the file, where it does: see [`crate::fs_verity_digest`].
    pub fs_verity: Sha256,
    /// The digest of the file's content, independent of format and compression: see [`crate::content_digest`].
    pub content: ContentDigest,
    /// The highest user id in the layer.
    pub max_uid: u32,
    /// The highest group id in the layer.
    pub max_gid: u32,
    /// The layer's owners for which users have no ids.
    pub unusual_owners: UnusualOwners,
    /// Properties that depend on the layers below.
    pub shape: Shape,
    /// The tar-split data, if wanted.
    pub tar_split: Option<TarSplitFile>,
    /// The reason why a required comparison of the SquashFS file with the layer was impossible: see
    /// [`crate::Mksquashfs::has_link_defect`].
    pub unchecked: Option<String>,
    /// Dropped extended attributes: those that SquashFS cannot store, such as POSIX ACLs, or that would disturb the overlay.
    pub dropped_xattrs: BTreeSet<String>,
}

/// Converts one layer.
///
/// `open` returns the layer's stream, uncompressed or compressed with gzip or zstd, from its start. It is called once, or three
/// times for a layer in which later entries replace earlier ones.
///
/// # Errors
/// [`ConvertError`]. The file is complete and durable only on success.
pub fn convert<R: io::Read + Send>(
    layer: Layer<'_>,
    maker: &Maker,
    mut open: impl FnMut() -> io::Result<R>,
) -> Result<Converted, ConvertError> {
    let Layer { diff_id, file, tar_split, limits, owners, below } = layer;
    let rules = Rules { limits, owners, below };
    let split = || tar_split.map(TarSplit::create);
    let start = |root: &Meta| start(maker, file, root);
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
    finish(running, maker, file, seen, size, split)
}

/// Starts the program that makes the file.
pub(crate) fn start(maker: &Maker, file: &Path, root: &Meta) -> Result<Running, ConvertError> {
    let mut running = maker.start(file, root)?;
    if maker.reads_root_entry() {
        root_entry(&mut running, root).map_err(ConvertError::of_write)?;
    }
    Ok(running)
}

/// Waits for the file and computes its digest while the file is made durable.
pub(crate) fn finish(
    running: Running,
    maker: &Maker,
    file: &Path,
    seen: Seen,
    size: u64,
    split: Option<TarSplit<'_>>,
) -> Result<Converted, ConvertError> {
    running.finish()?;
    let open = || File::open(file);
    let (synced, measured, hashed) = thread::scope(|scope| {
        let synced = scope.spawn(|| open()?.sync_all());
        let measured = scope.spawn(|| fs_verity_digest(open()?));
        let hashed = open().and_then(digest);
        (synced.join(), measured.join(), hashed)
    });
    let panicked = || io::Error::other("a thread panicked");
    synced.unwrap_or_else(|_| Err(panicked())).map_err(ConvertError::Write)?;
    let fs_verity = measured.unwrap_or_else(|_| Err(panicked())).map_err(ConvertError::Write)?;
    let (squashfs_sha256, squashfs_size) = hashed.map_err(ConvertError::Write)?;
    let Seen { owners, shape, dropped_xattrs, content } = seen;
    let unchecked =
        if content.has_links() && maker.has_link_defect() { compare(file, &content.finish())? } else { None };
    Ok(Converted {
        size,
        squashfs_size,
        squashfs_sha256,
        fs_verity,
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

/// Compares a SquashFS file's content with the expected content. Returns the reason if sqfs2tar is missing.
fn compare(file: &Path, expected: &ContentDigest) -> Result<Option<String>, ConvertError> {
    match content_digest(file) {
        Ok(found) if found == *expected => Ok(None),
        Ok(_) => Err(ConvertError::Miswritten),
        Err(ConvertError::NoReader(reason)) => Ok(Some(ConvertError::NoReader(reason).to_string())),
        Err(error) => Err(error),
    }
}

/// The result of one pass over a stream.
pub(crate) struct Read<'s, T> {
    pub(crate) result: T,
    /// The stream's size in bytes.
    pub(crate) size: u64,
    pub(crate) split: Option<TarSplit<'s>>,
}

/// Makes one pass over the stream and checks its digest. If the digest is wrong, the result of `work` is dropped, which kills
/// the program that makes the file.
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
        if found.as_str() != diff_id {
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
