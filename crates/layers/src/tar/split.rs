//! Writes tar-split data, from which Podman rebuilds a layer's tar archive byte by byte together with the layer's files.
//!
//! The format is that of vbatts/tar-split, as containers/storage keeps it in `overlay-layers/<layer id>.tar-split.gz`: gzip of
//! one JSON object a line. A *segment* (type 2) carries bytes of the archive in base64. A *file* (type 1) stands for the
//! content of the file of that name in the layer's directory, with its size and its CRC-64 (source:
//! `tar/storage/{entry,packer}.go`, `tar/asm/assemble.go`). No crate serves: none writes this format.
//!
//! Only files whose complete content remains in the layer under a name are entries of their own. All other bytes are in segments:
//! headers and padding, sparse files (whose holes are not in the archive), contents that later entries replace, and files whose
//! names are not UTF-8, which some versions of the reader mistake for duplicates.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc::{CRC_64_GO_ISO, Crc, Digest, Table};
use flate2::Compression;
use flate2::write::GzEncoder;
use parallax_format::digest::Sha256;

use crate::decompress::digest;
use crate::error::ConvertError;
use crate::path::LayerPath;

/// The checksum of tar-split: Go's `crc64.ISO`.
static CRC: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_GO_ISO);
/// Size at which a segment is written, in bytes. Readers hold one segment at a time.
const SEGMENT: usize = 64 << 10;
/// Size of the pieces that are compressed, in bytes. A line is written in many small parts, and flate2 clears 32 KiB of memory for
/// each write, which took 4 % of a migration.
const BLOCK: usize = 64 << 10;

/// A finished file of tar-split data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarSplitFile {
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Sha256,
}

/// Tar-split data under construction. Errors are kept until [`Self::finish`].
pub(crate) struct TarSplit<'a> {
    path: &'a Path,
    to: io::Result<BufWriter<GzEncoder<File>>>,
    segment: Vec<u8>,
    position: u64,
    file: Option<Content>,
}

/// The file whose content is being read.
struct Content {
    name: String,
    size: u64,
    crc: Digest<'static, u64, Table<16>>,
}

impl<'a> TarSplit<'a> {
    /// Starts to write `path`, replacing an existing file.
    pub(crate) fn create(path: &'a Path) -> Self {
        let open = || {
            let file = File::create(path)?;
            file.set_permissions(fs::Permissions::from_mode(0o644))?;
            // A better compression would save a thousandth of the layer's size, and take a fiftieth of its migration.
            Ok(BufWriter::with_capacity(BLOCK, GzEncoder::new(file, Compression::fast())))
        };
        Self { path, to: open(), segment: Vec::with_capacity(SEGMENT), position: 0, file: None }
    }

    /// Adds the next bytes of the archive.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        if let Some(file) = &mut self.file {
            file.size += bytes.len() as u64;
            file.crc.update(bytes);
            return;
        }
        for part in bytes.chunks(SEGMENT) {
            self.segment.extend_from_slice(part);
            if self.segment.len() >= SEGMENT {
                self.write_segment();
            }
        }
    }

    /// Begins a file: the bytes up to [`Self::end_file`] are its complete content.
    pub(crate) fn begin_file(&mut self, path: &LayerPath) {
        let name = std::str::from_utf8(path.as_bytes()).ok();
        self.file = name.map(|name| Content { name: name.to_owned(), size: 0, crc: CRC.digest() });
    }

    /// Ends the content of the file.
    pub(crate) fn end_file(&mut self) {
        let Some(Content { name, size, crc }) = self.file.take() else { return };
        if size == 0 {
            return;
        }
        self.write_segment();
        let payload = STANDARD.encode(crc.finalize().to_be_bytes());
        let position = self.position;
        self.write_line(&serde_json::json!({
            "type": 1, "name": name, "size": size, "payload": payload, "position": position,
        }));
    }

    fn write_segment(&mut self) {
        if self.segment.is_empty() {
            return;
        }
        let payload = STANDARD.encode(&self.segment);
        let position = self.position;
        self.segment.clear();
        self.write_line(&serde_json::json!({"type": 2, "payload": payload, "position": position}));
    }

    fn write_line(&mut self, line: &serde_json::Value) {
        self.position += 1;
        let written = self.to.as_mut().map_or(Ok(()), |to| writeln!(to, "{line}"));
        if let Err(error) = written {
            self.to = Err(error);
        }
    }

    /// Completes the file and makes it durable.
    pub(crate) fn finish(mut self) -> Result<TarSplitFile, ConvertError> {
        self.write_segment();
        let Self { path, to, .. } = self;
        let write = || {
            let file = to?.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?;
            file.sync_all()?;
            digest(File::open(path)?)
        };
        let (sha256, size) = write().map_err(ConvertError::Write)?;
        Ok(TarSplitFile { size, sha256 })
    }
}

#[cfg(test)]
mod tests;
