//! Reads one small file of a tar archive, such as the list of images in the output of `docker save`.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};

use super::entry::{Kind, TarError};
use super::header::BLOCK;
use super::reader::TarReader;
use crate::decompress::decompress;
use crate::path::LayerPath;

/// Offset of the magic in a tar header.
const MAGIC_OFFSET: usize = 257;

/// Returns the content of the file `name` in an archive, the first of several; `None` if the archive lacks it. Only the headers of an
/// uncompressed archive are read.
///
/// # Errors
/// The archive cannot be read, is corrupt or has an unsupported compression, or the file has more than `max` bytes.
pub fn archive_member(mut archive: File, name: &str, max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut start = [0; BLOCK];
    let is_plain = match archive.read_exact(&mut start) {
        Ok(()) => start[MAGIC_OFFSET..].starts_with(b"ustar"),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
        Err(error) => return Err(error),
    };
    archive.seek(SeekFrom::Start(0))?;
    if is_plain {
        let seek =
            |source: &mut BufReader<File>, count: u64| source.seek_relative(i64::try_from(count).unwrap_or(i64::MAX));
        return find(TarReader::new(BufReader::new(archive)), name, max, seek);
    }
    let read = |source: &mut Box<dyn Read>, count| io::copy(&mut source.take(count), &mut io::sink()).map(drop);
    find(TarReader::new(decompress(archive)?), name, max, read)
}

fn find<R: Read>(
    mut reader: TarReader<R>,
    name: &str,
    max: u64,
    skip: impl Fn(&mut R, u64) -> io::Result<()>,
) -> io::Result<Option<Vec<u8>>> {
    while let Some(entry) = reader.next().map_err(io_error)? {
        let size = match entry.kind {
            Kind::File(size) if entry.name == name.as_bytes() => size,
            _ => {
                reader.skip_data(&skip).map_err(io_error)?;
                continue;
            }
        };
        if size > max {
            return Err(io::Error::other(format!("{name} has {size} bytes, more than the limit of {max}")));
        }
        let mut contents = Vec::new();
        reader.copy_data(&LayerPath::root(), &mut contents).map_err(io_error)?;
        return Ok(Some(contents));
    }
    Ok(None)
}

fn io_error(error: TarError) -> io::Error {
    match error {
        TarError::Read(error) | TarError::Write(error) => error,
        TarError::Archive(error) => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// An archive with these files.
    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, contents) in files {
            let mut header = [0; BLOCK];
            header[..name.len()].copy_from_slice(name.as_bytes());
            for (at, text) in [(100, "0000644"), (108, "0000000"), (116, "0000000"), (136, "00000000000")] {
                header[at..at + text.len()].copy_from_slice(text.as_bytes());
            }
            header[124..135].copy_from_slice(format!("{:011o}", contents.len()).as_bytes());
            header[156] = b'0';
            header[MAGIC_OFFSET..MAGIC_OFFSET + 8].copy_from_slice(b"ustar\x0000");
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
            header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            bytes.extend(header);
            bytes.extend(*contents);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        bytes.resize(bytes.len() + 2 * BLOCK, 0);
        bytes
    }

    fn member(bytes: &[u8], name: &str) -> io::Result<Option<Vec<u8>>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        archive_member(file, name, 100)
    }

    #[test]
    fn a_file_is_found_behind_large_ones_compressed_or_not() {
        let plain = archive(&[("layer.tar", &[1; 100_000]), ("manifest.json", b"[]"), ("z", &[0; 101])]);
        let packed = zstd::encode_all(&*plain, 1).unwrap();
        for bytes in [plain, packed] {
            assert_eq!(member(&bytes, "manifest.json").unwrap().unwrap(), b"[]");
            assert_eq!(member(&bytes, "other").unwrap(), None);
            assert!(member(&bytes, "z").unwrap_err().to_string().contains("more than the limit of 100"));
        }
    }

    #[test]
    fn what_is_no_archive_is_an_error() {
        assert!(member(&[7; 2000], "a").is_err());
        assert!(member(b"BZh9", "a").is_err());
        assert_eq!(member(b"", "a").unwrap(), None);
        let cut = &archive(&[("a", &[1; 2000])])[..600];
        assert_eq!(member(cut, "b").unwrap(), None);
    }
}
