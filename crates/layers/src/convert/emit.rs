//! Writes a tar archive in the one form that every mksquashfs from 4.5.1 on reads correctly.
//!
//! This form avoids (from the sources of squashfs-tools 4.5.1 and 4.6.1; not all were reproduced):
//!
//! - User and group **names** win over ids when this machine knows the name, so an image's `postgres` would become
//!   the machine's: names are never written.
//! - A PAX `mtime` without a fraction is an error in 4.5.1, and fractions are lost anyway: the time is in the header.
//! - A PAX `linkpath` loses leading `/`, `./` and `../` in 4.5.1, also for symbolic links: long targets are written
//!   as GNU's `K` header.
//! - A PAX `size` would be taken for the size of a following `L` header: sizes, like large ids, are written in binary.
//! - The prefix field is used in all forms of headers: it stays empty, long names are GNU's `L` headers.
//! - PAX records are scanned as C strings: at least one zero byte follows them.
//! - Up to 4.7.5 the thread that reads the archive still looks at a hard link's entry after the main thread may have freed
//!   it. If something else has the memory by then, the headers that follow can be taken for a file's data. Hard links
//!   therefore come after everything else, and the file of a layer with hard links is compared with the layer (`convert/layer.rs`).
//! - Sparse files have met several defects up to 4.7.4: holes are written as zeros, which mksquashfs finds by itself.
//!
//! No crate serves: the writer of `tar` chooses between these forms by itself.

use std::io::{self, Read, Write};

use crate::content::{Content, FileId, Hashing, id_of, id_of_root};
use crate::path::LayerPath;
use crate::running::Running;
use crate::tar::entry::{Entry, Kind, MAX_MTIME, Meta, TarError};
use crate::tar::header::{BLOCK, padding};
use crate::tar::pax;
use crate::tar::reader::TarReader;

/// Size of the header's fields for a name and a link target, in bytes.
const FIELD: usize = 100;

/// The destination of an archive.
pub(crate) trait Sink: Write {
    /// Announces that the content of the file at `path` follows.
    fn begin_file(&mut self, _path: &LayerPath) {}
    /// Announces that the content of the file is complete.
    fn end_file(&mut self) {}
}

impl Sink for Vec<u8> {}
impl Sink for Running {}
impl<S: Sink> Sink for &mut S {}

/// Writes entries.
pub(crate) struct Emitter<W> {
    to: W,
    content: Content,
    /// Hard links, which come last: name, target, and the file's attributes without the extended ones.
    links: Vec<(LayerPath, Box<[u8]>, Meta)>,
}

impl<W: Sink> Emitter<W> {
    /// Starts an archive whose root directory has these attributes.
    pub(crate) fn new(to: W, root: &Meta) -> Self {
        let mut content = Content::default();
        content.add(&LayerPath::root(), id_of_root(root));
        Self { to, content, links: Vec::new() }
    }

    /// Writes an entry that has no data.
    pub(crate) fn entry(&mut self, path: &LayerPath, kind: &Kind, meta: &Meta) -> io::Result<()> {
        self.content.add(path, id_of(kind, meta));
        self.headers(path, kind, meta)
    }

    /// Writes an entry that is not a directory, and returns its hash. A file's data is read from `tar`.
    pub(crate) fn leaf<R: Read>(
        &mut self,
        path: &LayerPath,
        kind: &Kind,
        meta: &Meta,
        tar: &mut TarReader<R>,
    ) -> Result<FileId, TarError> {
        self.headers(path, kind, meta).map_err(TarError::Write)?;
        let id = if let Kind::File(_) = kind {
            self.to.begin_file(path);
            let mut hashing = Hashing::new(&mut self.to);
            let size = tar.copy_data(path, &mut hashing)?;
            let id = hashing.id(kind, meta);
            self.to.end_file();
            self.pad(size).map_err(TarError::Write)?;
            id
        } else {
            id_of(kind, meta)
        };
        self.content.add(path, id);
        Ok(id)
    }

    /// Adds a hard link to the file with this hash. Links are written at the end, in the order of the calls.
    pub(crate) fn link(&mut self, path: &LayerPath, target: &[u8], meta: &Meta, id: FileId) {
        self.content.add_link(path, id);
        self.links.push((path.clone(), target.into(), Meta { xattrs: Vec::new(), ..*meta }));
    }

    /// Writes an entry under all its names.
    pub(crate) fn names<R: Read>(
        &mut self,
        first: &LayerPath,
        links: &[LayerPath],
        entry: &Entry,
        tar: &mut TarReader<R>,
    ) -> Result<(), TarError> {
        let id = self.leaf(first, &entry.kind, &entry.meta, tar)?;
        for link in links {
            self.link(link, first.as_bytes(), &entry.meta, id);
        }
        Ok(())
    }

    fn headers(&mut self, path: &LayerPath, kind: &Kind, meta: &Meta) -> io::Result<()> {
        self.headers_of(path.as_bytes(), kind, meta)
    }

    fn headers_of(&mut self, name: &[u8], kind: &Kind, meta: &Meta) -> io::Result<()> {
        let (flag, size, link, device) = match kind {
            Kind::File(size) => (b'0', *size, &[][..], None),
            Kind::HardLink(target) => (b'1', 0, &target[..], None),
            Kind::Symlink(target) => (b'2', 0, &target[..], None),
            Kind::Char(major, minor) => (b'3', 0, &[][..], Some((*major, *minor))),
            Kind::Block(major, minor) => (b'4', 0, &[][..], Some((*major, *minor))),
            Kind::Dir => (b'5', 0, &[][..], None),
            Kind::Fifo => (b'6', 0, &[][..], None),
        };
        // These come before PAX headers: see the notes above.
        if name.len() > FIELD {
            self.extension(b'L', name)?;
        }
        if link.len() > FIELD {
            self.extension(b'K', link)?;
        }
        if !meta.xattrs.is_empty() && flag != b'1' {
            self.extension(b'x', &xattr_records(&meta.xattrs))?;
        }
        let mut header = header(flag, name, size);
        number(&mut header[100..108], u64::from(meta.mode));
        number(&mut header[108..116], u64::from(meta.uid));
        number(&mut header[116..124], u64::from(meta.gid));
        number(&mut header[136..148], meta.mtime.clamp(0, MAX_MTIME) as u64);
        put(&mut header[157..257], link);
        if let Some((major, minor)) = device {
            number(&mut header[329..337], u64::from(major));
            number(&mut header[337..345], u64::from(minor));
        }
        self.block(header)
    }

    /// Writes the data of a file that was just announced by [`Self::entry`]: zeros, which mksquashfs stores as a hole.
    pub(crate) fn hole(&mut self, size: u64) -> io::Result<()> {
        io::copy(&mut io::repeat(0).take(size), &mut self.to)?;
        self.pad(size)
    }

    /// Fills the last block of a file's data.
    fn pad(&mut self, size: u64) -> io::Result<()> {
        self.to.write_all([0; BLOCK].get(..padding(size) as usize).unwrap_or_default())
    }

    /// Writes the hard links, ends the archive and returns the destination and the content.
    pub(crate) fn finish(mut self) -> io::Result<(W, Content)> {
        for (path, target, meta) in std::mem::take(&mut self.links) {
            self.headers(&path, &Kind::HardLink(target.into()), &meta)?;
        }
        self.to.write_all(&[0; 2 * BLOCK])?;
        self.to.flush()?;
        Ok((self.to, self.content))
    }

    fn extension(&mut self, flag: u8, content: &[u8]) -> io::Result<()> {
        self.block(header(flag, b"././@LongLink", content.len() as u64))?;
        self.to.write_all(content)?;
        self.pad(content.len() as u64)
    }

    fn block(&mut self, mut header: [u8; BLOCK]) -> io::Result<()> {
        header[148..156].fill(b' ');
        let sum: u64 = header.iter().map(|&b| u64::from(b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.to.write_all(&header)
    }
}

/// Writes the entry of the root directory, whose attributes mkfs.erofs takes from the archive and mksquashfs from options. Extended
/// attributes are left out, as in SquashFS files.
pub(crate) fn root_entry<W: Sink>(to: &mut W, root: &Meta) -> io::Result<()> {
    let mut emitter = Emitter { to, content: Content::default(), links: Vec::new() };
    emitter.headers_of(b"./", &Kind::Dir, &Meta { xattrs: Vec::new(), ..root.clone() })
}

fn header(flag: u8, name: &[u8], size: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    put(&mut header[..100], name);
    for field in [100..108, 108..116, 116..124, 136..148, 329..337, 337..345] {
        if let Some(field) = header.get_mut(field) {
            number(field, 0);
        }
    }
    number(&mut header[124..136], size);
    header[156] = flag;
    header[257..265].copy_from_slice(b"ustar\x0000");
    header
}

fn put(field: &mut [u8], value: &[u8]) {
    field.iter_mut().zip(value).for_each(|(to, byte)| *to = *byte);
}

/// Writes a number in octal if it fits with the final NUL, else in GNU's binary form.
fn number(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let octal = format!("{value:0digits$o}\0");
    if octal.len() == field.len() {
        field.copy_from_slice(octal.as_bytes());
    } else {
        field.fill(0);
        field.iter_mut().rev().zip(value.to_le_bytes()).for_each(|(to, byte)| *to = byte);
        // The marker takes the top byte of an 8-byte field; ids and device numbers have 32 bits.
        if let Some(first) = field.first_mut() {
            *first = 0x80;
        }
    }
}

fn xattr_records(xattrs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut records: Vec<u8> =
        xattrs.iter().flat_map(|(name, value)| pax::record(&[b"SCHILY.xattr.", &name[..]].concat(), value)).collect();
    if records.len() % BLOCK == 0 {
        records.extend(pax::record(b"comment", b""));
    }
    records
}
