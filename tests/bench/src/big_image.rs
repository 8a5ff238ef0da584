//! Images of any size, made quickly: one layer of many files, half of whose content can be compressed.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::Context as _;
use parallax_format::digest;
use parallax_store::hash::{Digester, sha256};
use serde_json::json;

const BLOCK: usize = 512;
/// How large a file of the layer is, in bytes, on average `average`: of all sizes, because mksquashfs compares files of one size
/// with each other.
fn size_of(file: usize, average: usize) -> usize {
    file * 7919 % (2 * average)
}

fn padded(size: usize) -> usize {
    size.next_multiple_of(BLOCK)
}

/// Writes a `docker-archive` whose layer has `files` files of `average` bytes on average.
///
/// # Errors
/// It can't be written.
pub(crate) fn write(path: &Path, files: usize, average: usize) -> anyhow::Result<()> {
    let mut archive = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let layer_size = (0..files).map(|file| BLOCK + padded(size_of(file, average))).sum::<usize>() + 2 * BLOCK;
    let layer_size = layer_size as u64;
    archive.write_all(&header("layer.tar", layer_size))?;
    let mut layer = Hashed { to: archive, hash: Digester::default() };
    write_files(&mut layer, files, average)?;
    let Hashed { to: mut archive, hash } = layer;
    let diff_id = hash.finish();

    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest::Digest::from(diff_id)]},
    })
    .to_string();
    let name = format!("{}.json", sha256(config.as_bytes()));
    let manifest = json!([{"Config": name, "RepoTags": null, "Layers": ["layer.tar"]}]).to_string();
    for (name, content) in [(name.as_str(), &config), ("manifest.json", &manifest)] {
        archive.write_all(&header(name, content.len() as u64))?;
        archive.write_all(content.as_bytes())?;
        archive.write_all(&[0; BLOCK][..content.len().wrapping_neg() % BLOCK])?;
    }
    archive.write_all(&[0; 2 * BLOCK])?;
    archive.flush().with_context(|| format!("{}", path.display()))
}

fn write_files(to: &mut impl Write, files: usize, average: usize) -> io::Result<()> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut content = vec![0; padded(2 * average)];
    for number in 0..files {
        let size = size_of(number, average);
        // No two are the same: mksquashfs would keep one.
        random.fill(&mut content[..size / 2]);
        content[size / 2..padded(size)].fill(0);
        to.write_all(&header(&format!("d{:04}/f{number:07}", number / 100), size as u64))?;
        to.write_all(&content[..padded(size)])?;
    }
    to.write_all(&[0; 2 * BLOCK])
}

/// A regular file's header.
fn header(name: &str, size: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    // The checksum counts itself as spaces.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

struct Hashed<W> {
    to: W,
    hash: Digester,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn tar_reads_what_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image.tar");
        write(&path, 7, 10_000).unwrap();
        let list = |arguments: &[&str]| {
            let done = Command::new("tar").current_dir(&directory).args(arguments).output().unwrap();
            assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
            String::from_utf8(done.stdout).unwrap()
        };
        assert_eq!(list(&["-tf", "image.tar"]).lines().count(), 3);
        list(&["-xf", "image.tar"]);
        assert_eq!(list(&["-tf", "layer.tar"]).lines().count(), 7);
    }
}
