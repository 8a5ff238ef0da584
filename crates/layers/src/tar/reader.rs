//! Reads a tar archive entry by entry: ustar, PAX, GNU and the old V7 form.
//!
//! No crate serves: `tar` 0.4 does not expand the sparse files of PAX archives, and `tar-core` 0.1 needs a newer Rust than ours.

use std::io::{self, Read, Write};

use super::entry::{Entry, Kind, Meta, TarError};
use super::header::{BLOCK, Header, padding, until_nul};
use super::limits::{Allowance, Limits};
use super::pax::Pax;
use super::sparse::{Sparse, holes};
use super::split::TarSplit;
use crate::error::{ArchiveError, EntryError};
use crate::path::LayerPath;

/// Maximum device numbers of Linux, and therefore of SquashFS.
const MAX_MAJOR: u32 = (1 << 12) - 1;
const MAX_MINOR: u32 = (1 << 20) - 1;
/// Maximum size of a long name or an extended header in bytes. Go's reader has the same limit, so no image
/// that Podman can pull has more.
const MAX_EXTENSION: u64 = 1 << 20;
/// Maximum number of headers that extend one entry. Tools write one of each kind, and sometimes global headers.
const MAX_EXTENSIONS: u32 = 16;

/// The unread data of the current entry.
#[derive(Debug, Default)]
struct Data {
    /// Size of the data in the stream in bytes.
    stored: u64,
    /// Number of zero bytes after the data up to the next block.
    padding: u64,
    /// For a file with holes.
    sparse: Option<Sparse>,
}

/// The archive's bytes, passed on to tar-split data as they are read.
struct Source<'a, R> {
    from: R,
    split: Option<TarSplit<'a>>,
}

impl<R: Read> Read for Source<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.from.read(buffer)?;
        if let Some(split) = &mut self.split {
            split.bytes(buffer.get(..got).unwrap_or_default());
        }
        Ok(got)
    }
}

pub(crate) struct TarReader<'a, R> {
    source: Source<'a, R>,
    globals: Pax,
    headers: u64,
    entries: u64,
    data: Data,
    /// Remaining limit for bytes of file contents, holes included.
    bytes_left: u64,
    /// Remaining limit for entries.
    entries_left: Allowance,
    /// Remaining limit for bytes of global headers.
    globals_left: u64,
    ended: bool,
    buffer: Box<[u8]>,
}

impl<'a, R: Read> TarReader<'a, R> {
    pub(crate) fn new(source: R) -> Self {
        let buffer = vec![0; 256 << 10].into_boxed_slice();
        Self {
            source: Source { from: source, split: None },
            globals: Pax::default(),
            headers: 0,
            entries: 0,
            data: Data::default(),
            bytes_left: u64::MAX,
            entries_left: Allowance::new(Limits::default()),
            globals_left: MAX_EXTENSION,
            ended: false,
            buffer,
        }
    }

    /// Records everything that is read in tar-split data.
    pub(crate) fn split_to(mut self, split: Option<TarSplit<'a>>) -> Self {
        self.source.split = split;
        self
    }

    /// Returns the tar-split data once the archive has been read.
    pub(crate) fn take_split(&mut self) -> Option<TarSplit<'a>> {
        self.source.split.take()
    }

    /// Refuses the entry that exceeds the limits, holes included.
    pub(crate) fn limited_to(mut self, limits: Limits) -> Self {
        self.bytes_left = limits.bytes;
        self.entries_left = Allowance::new(limits);
        self
    }

    /// Returns the next entry and skips unread data of the last entry; `None` at the archive's end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        let left = std::mem::take(&mut self.data);
        self.skip(left.stored)?;
        self.skip_padding(left.padding)?;
        let mut pax = self.globals.clone();
        let (mut long_name, mut long_link) = (None, None);
        let mut extensions_left = MAX_EXTENSIONS;
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            let size = self.field(Header::number(&header.0[124..136]), "has no valid size")?;
            if matches!(header.0[156], b'x' | b'X' | b'g' | b'L' | b'K') {
                extensions_left =
                    self.field(extensions_left.checked_sub(1), "exceeds the limit for headers of one entry")?;
            }
            match header.0[156] {
                b'x' | b'X' => {
                    let records = self.extension(size)?;
                    self.field(pax.merge(&records), "has invalid PAX records")?;
                }
                b'g' => {
                    let records = self.extension(size)?;
                    let left = self.globals_left.checked_sub(size);
                    self.globals_left = self.field(left, "exceeds the limit of 1 MiB for global headers")?;
                    let mut globals = std::mem::take(&mut self.globals);
                    self.field(globals.merge(&records), "has invalid PAX records")?;
                    self.globals = globals;
                    pax = self.globals.clone();
                }
                b'L' => long_name = Some(until_nul(&self.extension(size)?).to_vec()),
                b'K' => long_link = Some(until_nul(&self.extension(size)?).to_vec()),
                _ => {
                    // GNU tar prefers its own long names, which are older than PAX.
                    pax.path = long_name.or(pax.path);
                    pax.link_path = long_link.or(pax.link_path);
                    return self.entry(&header, size, pax).map(Some);
                }
            }
        }
    }

    /// Skips the data of the current entry, padding included, by `skip`, without reading it.
    pub(crate) fn skip_data(&mut self, skip: impl FnOnce(&mut R, u64) -> io::Result<()>) -> Result<(), TarError> {
        let left = std::mem::take(&mut self.data);
        skip(&mut self.source.from, left.stored.saturating_add(left.padding)).map_err(TarError::Read)
    }

    /// Writes the current file's data, holes as zeros, and returns the number of bytes. `path` is the file's path in the layer.
    pub(crate) fn copy_data(&mut self, path: &LayerPath, to: &mut dyn Write) -> Result<u64, TarError> {
        let Data { stored, padding, sparse } = std::mem::take(&mut self.data);
        let Some(Sparse { size, pieces }) = sparse else {
            if let Some(split) = &mut self.source.split {
                split.begin_file(path);
            }
            self.copy(stored, to)?;
            if let Some(split) = &mut self.source.split {
                split.end_file();
            }
            self.skip_padding(padding)?;
            return Ok(stored);
        };
        let mut position = 0;
        for piece in pieces {
            copy_zeros(piece.offset - position, to)?;
            self.copy(piece.length, to)?;
            position = piece.offset + piece.length;
        }
        copy_zeros(size - position, to)?;
        self.skip_padding(padding)?;
        Ok(size)
    }

    /// Reads the bytes after the archive's end, which belong to the stream's digest.
    pub(crate) fn drain(&mut self) -> Result<(), TarError> {
        loop {
            let got = self.source.read(&mut self.buffer).map_err(TarError::Read)?;
            if got == 0 {
                return Ok(());
            }
        }
    }

    fn entry(&mut self, header: &Header, size: u64, mut pax: Pax) -> Result<Entry, TarError> {
        let index = self.entries;
        self.entries += 1;
        let header_name = pax.path.unwrap_or_else(|| header.name());
        let name = pax.sparse.name.take().unwrap_or_else(|| header_name.clone());
        let refuse = |error| TarError::refuse(&name, error);
        let number = |from: usize| header.0.get(from..from + 8).and_then(Header::number);
        self.entries_left.take(&name).map_err(refuse)?;
        let id = |pax: Option<u64>, from: usize| {
            // -1 means "no id" to chown(2) and cannot own a file.
            let id = pax.or_else(|| number(from)).and_then(|id| u32::try_from(id).ok());
            id.filter(|&id| id != u32::MAX).ok_or_else(|| refuse(EntryError::Id))
        };
        let device = || {
            let part = |from, max| number(from).and_then(|n| u32::try_from(n).ok()).filter(|&n| n <= max);
            part(329, MAX_MAJOR).zip(part(337, MAX_MINOR)).ok_or_else(|| refuse(EntryError::Device))
        };
        let link = || pax.link_path.clone().unwrap_or_else(|| until_nul(&header.0[157..257]).to_vec());
        let mode = self.field(number(100), "has no valid mode")?;
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => self.field(Header::signed(&header.0[136..148]), "has no valid time")?,
        };
        let meta = Meta {
            mode: mode as u32 & 0o7777,
            uid: id(pax.uid, 108)?,
            gid: id(pax.gid, 116)?,
            mtime,
            xattrs: pax.xattrs,
        };
        let stored = pax.size.unwrap_or(size);
        let kind = match header.0[156] {
            // Archives older than POSIX mark directories by a slash.
            0 | b'0' if header_name.ends_with(b"/") => Kind::Dir,
            0 | b'0' | b'7' | b'S' => {
                let mut data = Data { stored, padding: padding(stored), sparse: None };
                data.sparse = holes(header, pax.sparse, &mut data.stored, &mut self.source, &refuse)?;
                let size = data.sparse.as_ref().map_or(data.stored, |sparse| sparse.size);
                self.data = data;
                // Checked before the file is written: a hole of terabytes costs its author nothing.
                self.bytes_left = self.bytes_left.checked_sub(size).ok_or_else(|| refuse(EntryError::TooMuch))?;
                Kind::File(size)
            }
            // Entries of other kinds have no data in the stream, even if their headers have a size.
            b'1' => Kind::HardLink(link()),
            b'2' => Kind::Symlink(link()),
            b'3' => device().map(|(major, minor)| Kind::Char(major, minor))?,
            b'4' => device().map(|(major, minor)| Kind::Block(major, minor))?,
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            other => return Err(refuse(EntryError::Type(other))),
        };
        match &kind {
            Kind::Dir => self.entries_left.take_xattrs(meta.xattr_bytes()).map_err(refuse)?,
            Kind::Symlink(target) | Kind::HardLink(target) => {
                self.entries_left.take_more(target.len()).map_err(refuse)?;
            }
            _ => {}
        }
        Ok(Entry { index, name, kind, meta })
    }

    /// Returns the next header; `None` at the end: a block of zeros, or the end of the stream, as some writers leave it.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        if self.ended {
            return Ok(None);
        }
        self.headers += 1;
        let mut block = [0; BLOCK];
        let mut got = 0;
        while got < BLOCK {
            match self.source.read(block.get_mut(got..).unwrap_or_default()).map_err(TarError::Read)? {
                0 if got == 0 => break,
                0 => return Err(ArchiveError::Truncated.into()),
                n => got += n,
            }
        }
        if block.iter().all(|&b| b == 0) {
            self.ended = true;
            return Ok(None);
        }
        let header = Header(block);
        self.field(header.has_valid_checksum().then_some(()), "has an invalid checksum")?;
        Ok(Some(header))
    }

    /// Returns the content of a header that extends the next header.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        let size =
            self.field((size <= MAX_EXTENSION).then_some(size), "exceeds the limit of 1 MiB for names or attributes")?;
        let mut content = vec![0; size as usize];
        self.source.read_exact(&mut content).map_err(TarError::of_read)?;
        self.skip(padding(size))?;
        Ok(content)
    }

    fn field<T>(&self, value: Option<T>, what: &'static str) -> Result<T, ArchiveError> {
        value.ok_or(ArchiveError::Header { index: self.headers, what })
    }

    fn skip(&mut self, count: u64) -> Result<(), TarError> {
        self.copy(count, &mut io::sink())
    }

    /// Skips the padding of a file's last block. Some writers end without it; Go's reader, and so Podman, accepts this as the end.
    fn skip_padding(&mut self, mut count: u64) -> Result<(), TarError> {
        while count > 0 && !self.ended {
            let length = count as usize;
            match self.source.read(self.buffer.get_mut(..length).unwrap_or_default()).map_err(TarError::Read)? {
                0 => self.ended = true,
                got => count -= got as u64,
            }
        }
        Ok(())
    }

    fn copy(&mut self, mut count: u64, to: &mut dyn Write) -> Result<(), TarError> {
        while count > 0 {
            let length = self.buffer.len().min(usize::try_from(count).unwrap_or(usize::MAX));
            let got = self.source.read(self.buffer.get_mut(..length).unwrap_or_default()).map_err(TarError::of_read)?;
            if got == 0 {
                return Err(ArchiveError::Truncated.into());
            }
            to.write_all(self.buffer.get(..got).unwrap_or_default()).map_err(TarError::Write)?;
            count -= got as u64;
        }
        Ok(())
    }
}

fn copy_zeros(mut count: u64, to: &mut dyn Write) -> Result<(), TarError> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while count > 0 {
        let now = ZEROS.len().min(usize::try_from(count).unwrap_or(usize::MAX));
        to.write_all(ZEROS.get(..now).unwrap_or_default()).map_err(TarError::Write)?;
        count -= now as u64;
    }
    Ok(())
}
