//! Checks a SquashFS file against its record.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use parallax_chunks::Matcher;
use parallax_format::record::LayerRecord;
use parallax_format::squashfs::Superblock;

use crate::error::StoreError;
use crate::hash::Digester;

/// Returns the problem of a SquashFS file, if there is one.
pub(super) fn check_file(
    path: &Path,
    layer: &LayerRecord,
    mut matcher: Option<&mut Matcher<'_>>,
) -> Result<Option<String>, StoreError> {
    let failed = |cause: io::Error| StoreError::Io { action: "read", path: path.to_owned(), cause };
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some("is not there".to_owned())),
        file => file.map_err(failed)?,
    };
    if !layer.sidecar && !fs::symlink_metadata(path).map_err(failed)?.is_file() {
        return Ok(Some("is not a regular file, so nodes refuse it".to_owned()));
    }
    let size = file.metadata().map_err(failed)?.len();
    if size != layer.squashfs_size {
        return Ok(Some(format!("has {size} bytes and should have {}", layer.squashfs_size)));
    }
    let mut superblock = Vec::new();
    file.by_ref().take(Superblock::BYTES).read_to_end(&mut superblock).map_err(failed)?;
    if Superblock::parse(&superblock).is_none_or(|superblock| superblock.bytes_used > size) {
        return Ok(Some("has no SquashFS superblock that fits it".to_owned()));
    }
    let mut hash = Digester::default();
    let mut take = |bytes: &[u8]| {
        hash.update(bytes);
        if let Some(matcher) = &mut matcher {
            matcher.update(bytes);
        }
    };
    take(&superblock);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => break,
            got => take(buffer.get(..got).unwrap_or_default()),
        }
    }
    let is = hash.finish();
    Ok((Some(is) != layer.squashfs_sha256).then(|| format!("has changed: its SHA-256 is {is}")))
}
