//! Reads a tar archive entry by entry: ustar, PAX, GNU and the old V7 form.
//!
//! No crate serves: `tar` 0.4 does not expand the sparse files of PAX archives, and `tar-core` 0.1 needs a newer Rust than ours.

use std::io::{self, Read, Write};

use crate::error::{ArchiveError, EntryError};
use crate::header::{Header, until_nul};
use crate::limits::{Allowance, Limits};
use crate::path::{LayerPath, printable};
use crate::pax::Pax;
use crate::sparse::{Piece, SparseSource};
use crate::tar_split::TarSplit;

pub(crate) const BLOCK: usize = 512;
/// The latest time SquashFS can hold.
pub(crate) const MAX_MTIME: i64 = u32::MAX as i64;
/// The largest device numbers of Linux, and so of SquashFS.
const MAX_MAJOR: u32 = (1 << 12) - 1;
const MAX_MINOR: u32 = (1 << 20) - 1;
/// The most that a long name or an extended header may hold, in bytes. Go's reader has the same limit, so no image
/// that Podman can pull has more.
const MAX_EXTENSION: u64 = 1 << 20;
/// The most headers that extend one entry. Tools write one of each kind, and global ones now and then.
const MOST_EXTENSIONS: u32 = 16;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file and its size in bytes, holes included.
    File(u64),
    /// A hard link to the file with this name.
    HardLink(Vec<u8>),
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A character device, major and minor number.
    Char(u32, u32),
    /// A block device, major and minor number.
    Block(u32, u32),
    Dir,
    Fifo,
}

/// What all kinds of entries have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Permission bits, with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970.
    pub(crate) mtime: i64,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Counted from 0, without the headers that only extend others.
    pub(crate) index: u64,
    pub(crate) name: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) meta: Meta,
}

/// Why reading or passing on an entry failed.
#[derive(Debug)]
pub(crate) enum TarError {
    /// The source failed.
    Read(io::Error),
    /// The archive is damaged.
    Archive(ArchiveError),
    /// What the data was written to failed.
    Write(io::Error),
}

impl From<ArchiveError> for TarError {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

/// The data of the current entry that is still to be read.
#[derive(Debug, Default)]
pub(crate) struct Data {
    /// Bytes of data in the stream.
    pub(crate) stored: u64,
    /// Zero bytes after them up to the next block.
    padding: u64,
    /// The file's size and its pieces, for a file with holes.
    pub(crate) sparse: Option<(u64, Vec<Piece>)>,
}

pub(crate) struct TarReader<'a, R> {
    source: R,
    /// Takes all that is read.
    split: Option<TarSplit<'a>>,
    globals: Pax,
    headers: u64,
    entries: u64,
    pub(crate) data: Data,
    /// How many bytes of file contents, holes included, may still come.
    bytes_left: u64,
    /// How many entries may still come.
    entries_left: Allowance,
    /// How many bytes of global headers may still come.
    globals_left: u64,
    ended: bool,
    buffer: Box<[u8]>,
}

impl<'a, R: Read> TarReader<'a, R> {
    pub(crate) fn new(source: R) -> Self {
        let buffer = vec![0; 256 << 10].into_boxed_slice();
        Self {
            source,
            split: None,
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

    /// Writes tar-split data of all that is read.
    pub(crate) fn split_to(mut self, split: Option<TarSplit<'a>>) -> Self {
        self.split = split;
        self
    }

    /// Gives the tar-split data back, once all has been read.
    pub(crate) fn take_split(&mut self) -> Option<TarSplit<'a>> {
        self.split.take()
    }

    /// Refuses the entry with which there is more than this, holes included.
    pub(crate) fn limited_to(mut self, limits: Limits) -> Self {
        self.bytes_left = limits.bytes;
        self.entries_left = Allowance::new(limits);
        self
    }

    /// The next entry, whatever of the last one's data was not read; `None` at the archive's end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        let left = std::mem::take(&mut self.data);
        self.skip(left.stored)?;
        self.skip_padding(left.padding)?;
        let mut pax = self.globals.clone();
        let (mut long_name, mut long_link) = (None, None);
        let mut extensions_left = MOST_EXTENSIONS;
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            let size = self.field(Header::number(&header.0[124..136]), "has no valid size")?;
            if matches!(header.0[156], b'x' | b'X' | b'g' | b'L' | b'K') {
                extensions_left = self.field(extensions_left.checked_sub(1), "is one of too many for one entry")?;
            }
            match header.0[156] {
                b'x' | b'X' => {
                    let records = self.extension(size)?;
                    self.field(pax.merge(&records), "holds damaged PAX records")?;
                }
                b'g' => {
                    let records = self.extension(size)?;
                    let left = self.globals_left.checked_sub(size);
                    self.globals_left = self.field(left, "claims more than 1 MiB for what holds for all entries")?;
                    let mut globals = std::mem::take(&mut self.globals);
                    self.field(globals.merge(&records), "holds damaged PAX records")?;
                    self.globals = globals;
                    pax = self.globals.clone();
                }
                b'L' => long_name = Some(until_nul(&self.extension(size)?).to_vec()),
                b'K' => long_link = Some(until_nul(&self.extension(size)?).to_vec()),
                _ => {
                    // GNU's long names came before PAX and are what its tar prefers.
                    pax.path = long_name.or(pax.path);
                    pax.link_path = long_link.or(pax.link_path);
                    return self.entry(&header, size, pax).map(Some);
                }
            }
        }
    }

    /// Has `skip` pass over the data of the current entry, its padding included, without reading it.
    pub(crate) fn skip_data(&mut self, skip: impl FnOnce(&mut R, u64) -> io::Result<()>) -> Result<(), TarError> {
        let left = std::mem::take(&mut self.data);
        skip(&mut self.source, left.stored.saturating_add(left.padding)).map_err(TarError::Read)
    }

    /// Writes the current file's data, its holes as zeros, and returns how many bytes it wrote. `path` is where the layer has
    /// them.
    pub(crate) fn copy_data(&mut self, path: &LayerPath, to: &mut dyn Write) -> Result<u64, TarError> {
        let Data { stored, padding, sparse } = std::mem::take(&mut self.data);
        let Some((size, pieces)) = sparse else {
            if let Some(split) = &mut self.split {
                split.begin_file(path);
            }
            self.copy(stored, to)?;
            if let Some(split) = &mut self.split {
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

    /// Reads what comes after the archive's end: it belongs to the stream whose digest is taken.
    pub(crate) fn drain(&mut self) -> Result<(), TarError> {
        loop {
            let got = self.source.read(&mut self.buffer).map_err(TarError::Read)?;
            if got == 0 {
                return Ok(());
            }
            split(&mut self.split, &self.buffer[..got]);
        }
    }

    fn entry(&mut self, header: &Header, size: u64, pax: Pax) -> Result<Entry, TarError> {
        let index = self.entries;
        self.entries += 1;
        let header_name = pax.path.unwrap_or_else(|| header.name());
        let name = pax.sparse.name.unwrap_or_else(|| header_name.clone());
        let refuse = |error| TarError::Archive(ArchiveError::Entry { name: printable(&name), error });
        let number = |from: usize| Header::number(&header.0[from..from + 8]);
        self.entries_left.take(&name).map_err(refuse)?;
        let id = |pax: Option<u64>, from: usize| {
            // -1 means "no id" to chown and can own nothing.
            let id = pax.or_else(|| number(from)).and_then(|id| u32::try_from(id).ok());
            id.filter(|&id| id != u32::MAX).ok_or_else(|| refuse(EntryError::Id))
        };
        let device = || {
            let part = |from, most| number(from).and_then(|n| u32::try_from(n).ok()).filter(|&n| n <= most);
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
            // The old way to mark a directory.
            0 | b'0' if header_name.ends_with(b"/") => Kind::Dir,
            0 | b'0' | b'7' | b'S' => {
                self.data = Data { stored, padding: padding(stored), sparse: None };
                let sparse =
                    SparseSource { real_size: pax.sparse.real_size, major: pax.sparse.major, map: pax.sparse.map };
                let size = self.holes(header, sparse, &refuse)?;
                // Before any of it is written: a hole of terabytes costs its builder nothing.
                self.bytes_left = self.bytes_left.checked_sub(size).ok_or_else(|| refuse(EntryError::TooMuch))?;
                Kind::File(size)
            }
            // Whatever size their headers claim, the others have no data in the stream.
            b'1' => Kind::HardLink(link()),
            b'2' => Kind::Symlink(link()),
            b'3' => device().map(|(major, minor)| Kind::Char(major, minor))?,
            b'4' => device().map(|(major, minor)| Kind::Block(major, minor))?,
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            other => return Err(refuse(EntryError::Type(other))),
        };
        match &kind {
            Kind::Dir => self.entries_left.take_meta(&meta).map_err(refuse)?,
            Kind::Symlink(target) | Kind::HardLink(target) => {
                self.entries_left.take_more(target.len()).map_err(refuse)?;
            }
            _ => {}
        }
        Ok(Entry { index, name, kind, meta })
    }

    /// The next header; `None` at the end: a block of zeros, or no more bytes as some writers leave it.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        if self.ended {
            return Ok(None);
        }
        self.headers += 1;
        let mut block = [0; BLOCK];
        let mut got = 0;
        while got < BLOCK {
            match self.source.read(&mut block[got..]).map_err(TarError::Read)? {
                0 if got == 0 => break,
                0 => return Err(ArchiveError::Truncated.into()),
                n => got += n,
            }
        }
        split(&mut self.split, &block[..got]);
        if block.iter().all(|&b| b == 0) {
            self.ended = true;
            return Ok(None);
        }
        let header = Header(block);
        self.field(header.checksum_holds().then_some(()), "has a wrong checksum")?;
        Ok(Some(header))
    }

    /// The content of a header that extends the next one.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        let size =
            self.field((size <= MAX_EXTENSION).then_some(size), "claims more than 1 MiB for names or attributes")?;
        let mut content = vec![0; size as usize];
        self.fill(&mut content)?;
        self.skip(padding(size))?;
        Ok(content)
    }

    fn field<T>(&self, value: Option<T>, what: &'static str) -> Result<T, ArchiveError> {
        value.ok_or(ArchiveError::Header { index: self.headers, what })
    }

    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> Result<(), TarError> {
        self.source.read_exact(buffer).map_err(ended_early)?;
        split(&mut self.split, buffer);
        Ok(())
    }

    fn skip(&mut self, count: u64) -> Result<(), TarError> {
        self.copy(count, &mut io::sink())
    }

    /// Skips what fills the last block of a file up. Some writers end without it, and Go's reader, so Podman, takes that for the end.
    fn skip_padding(&mut self, mut count: u64) -> Result<(), TarError> {
        while count > 0 && !self.ended {
            let most = count as usize;
            match self.source.read(&mut self.buffer[..most]).map_err(TarError::Read)? {
                0 => self.ended = true,
                got => {
                    split(&mut self.split, &self.buffer[..got]);
                    count -= got as u64;
                }
            }
        }
        Ok(())
    }

    fn copy(&mut self, mut count: u64, to: &mut dyn Write) -> Result<(), TarError> {
        while count > 0 {
            let most = self.buffer.len().min(usize::try_from(count).unwrap_or(usize::MAX));
            let got = self.source.read(&mut self.buffer[..most]).map_err(ended_early)?;
            if got == 0 {
                return Err(ArchiveError::Truncated.into());
            }
            split(&mut self.split, &self.buffer[..got]);
            to.write_all(&self.buffer[..got]).map_err(TarError::Write)?;
            count -= got as u64;
        }
        Ok(())
    }
}

fn split(to: &mut Option<TarSplit<'_>>, bytes: &[u8]) {
    if let Some(to) = to {
        to.bytes(bytes);
    }
}

/// How many bytes are missing to a whole number of blocks.
pub(crate) fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn ended_early(error: io::Error) -> TarError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ArchiveError::Truncated.into(),
        _ => TarError::Read(error),
    }
}

fn copy_zeros(mut count: u64, to: &mut dyn Write) -> Result<(), TarError> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while count > 0 {
        let now = ZEROS.len().min(usize::try_from(count).unwrap_or(usize::MAX));
        to.write_all(&ZEROS[..now]).map_err(TarError::Write)?;
        count -= now as u64;
    }
    Ok(())
}
