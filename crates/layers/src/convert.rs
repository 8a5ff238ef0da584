//! One layer, from its stream to its SquashFS file.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::decompress::{HashingReader, decompress, digest};
use crate::error::ConvertError;
use crate::plan::Plan;
use crate::rewrite::{Seen, Stop, rewrite, rewrite_planned};
use crate::sqfstar::{Running, Sqfstar, SquashfsOptions};
use crate::tar::{Meta, TarReader};

/// A layer to convert.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// The SHA-256 that the uncompressed stream must have, 64 hexadecimal digits.
    pub diff_id: &'a str,
    /// The SquashFS file to write. It must not exist; what is left there after an error is rubbish.
    pub file: &'a Path,
    /// The most that its uncompressed stream, and that its files with their holes filled, may come to in bytes. A few
    /// kilobytes can claim to be petabytes.
    pub most_bytes: u64,
}

/// What [`Layer::most_bytes`] is where nobody says otherwise: 1 TiB.
pub const DEFAULT_MOST_BYTES: u64 = 1 << 40;

/// A layer that has been converted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// The size of the uncompressed tar stream in bytes.
    pub size: u64,
    /// The size of the SquashFS file in bytes.
    pub squashfs_size: u64,
    /// The SHA-256 of the SquashFS file, 64 hexadecimal digits.
    pub squashfs_sha256: String,
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
pub fn convert<R: Read>(
    layer: Layer<'_>,
    tool: Sqfstar,
    options: &SquashfsOptions,
    mut open: impl FnMut() -> io::Result<R>,
) -> Result<Converted, ConvertError> {
    let start = |root: &Meta| tool.start(layer.file, options, root);
    let first = pass(open().map_err(ConvertError::Read)?, layer, |tar| rewrite(tar, start));
    let (seen, size) = match first {
        Err(Stop::NeedsPlan) => {
            remove_partial(layer.file)?;
            let (plan, _) = reading(open().map_err(ConvertError::Read)?, layer, |tar| Ok(Plan::make(tar)?))
                .map_err(without_plan)?;
            pass(open().map_err(ConvertError::Read)?, layer, |tar| rewrite_planned(tar, plan, start))
        }
        done => done,
    }
    .map_err(without_plan)?;
    let (squashfs_sha256, squashfs_size) = File::open(layer.file).and_then(digest).map_err(ConvertError::Write)?;
    let Seen { max_uid, max_gid, dropped_xattrs } = seen;
    Ok(Converted { size, squashfs_size, squashfs_sha256, max_uid, max_gid, dropped_xattrs })
}

/// One pass that writes the file.
fn pass<R: Read>(
    source: R,
    layer: Layer<'_>,
    work: impl FnOnce(&mut TarReader<&mut HashingReader<Box<dyn Read + '_>>>) -> Result<(Running, Seen), Stop>,
) -> Result<(Seen, u64), Stop> {
    let ((running, seen), size) = reading(source, layer, work)?;
    running.finish(layer.file)?;
    Ok((seen, size))
}

/// One pass over the stream, with its digest checked. What `work` returns is dropped if the digest is wrong, which kills
/// sqfstar.
fn reading<R: Read, T>(
    source: R,
    layer: Layer<'_>,
    work: impl FnOnce(&mut TarReader<&mut HashingReader<Box<dyn Read + '_>>>) -> Result<T, Stop>,
) -> Result<(T, u64), Stop> {
    let mut stream = HashingReader::new(decompress(source).map_err(ConvertError::Read)?).limited_to(layer.most_bytes);
    let result = work(&mut TarReader::new(&mut stream).limited_to(layer.most_bytes))?;
    let (found, size) = stream.finish();
    if found != layer.diff_id {
        return Err(ConvertError::Digest { expected: layer.diff_id.to_owned(), found }.into());
    }
    Ok((result, size))
}

fn without_plan(stop: Stop) -> ConvertError {
    match stop {
        Stop::Failed(error) => error,
        Stop::Sink(error) => error.downcast().unwrap_or_else(ConvertError::Write),
        // A plan is never asked for twice.
        Stop::NeedsPlan => ConvertError::Write(io::Error::other("the layer changed while it was read")),
    }
}

fn remove_partial(file: &Path) -> Result<(), ConvertError> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ConvertError::Write(error)),
        _ => Ok(()),
    }
}
