//! Layers whose form depends on the layers below: they get a SquashFS file for the image's own chain of layers.
//!
//! A layer with an entry below a directory without an entry, `tmp/link` without `tmp`, shows that directory with the layer's
//! attributes in the overlay. The attributes must be those of the layers below. If these are the default ones, the file that all
//! images with the layer share is correct.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use parallax_format::digest::{DiffId, Sha256};
use parallax_format::layout;
use parallax_layers::{Attributes, Below, ErofsTree};
use parallax_store::hash::link_of_layer;
use parallax_store::{LayerFile, OwnFiles, Shape};

use super::layers::Form;
use super::{Finished, Migration};
use crate::image::{Image, Layer};
use crate::source::Source;

/// One of the layers below.
struct Lower {
    file: PathBuf,
    /// The index of its chunks, from which it is made if the store has it in chunks only.
    index: String,
    sha256: Sha256,
    /// Unknown if an earlier version converted it.
    shape: Option<Shape>,
}

impl Migration<'_> {
    /// Converts those layers of an image again that must have a file for its chain of layers. `finished` are the layers that
    /// were converted.
    pub(super) fn convert_own(
        &self,
        source: &Source,
        image: &Image,
        finished: &[Finished],
        new: &mut BTreeMap<DiffId, u64>,
    ) -> anyhow::Result<OwnFiles> {
        let mut own = OwnFiles::new();
        let mut lower: Vec<Lower> = Vec::new();
        for (index, (layer, id)) in image.layers.iter().zip(image.chain_ids()).enumerate() {
            if let Some(there) = self.store.own_file(&id)? {
                let file = self.store.root().join(link_of_layer(&id).sidecar());
                let index = layout::own_file(&id, layout::CHUNK_INDEX);
                lower.push(Lower { file, index, sha256: there.squashfs_sha256, shape: there.shape });
                continue;
            }
            // One that is gone will be missed when the image is published.
            let Some((file, described)) = self.shared_file(layer, finished)? else { break };
            let readable = |lower: &Lower| self.readable(lower);
            match described.shape.as_ref().map_or(Ok(None), |shape| below(shape, &lower, readable))? {
                None => lower.push(Lower::of((file, described))),
                Some(below) => {
                    let (made, _) =
                        self.made.get(&id, || self.convert_one(source, index, layer, &id, Form::Own(&below)))?;
                    *new.entry(layer.diff_id).or_insert(0) += made.1.squashfs_size;
                    lower.push(Lower::of(made.clone()));
                    own.insert(id, made);
                }
            }
        }
        Ok(own)
    }

    /// Returns the path of a layer's file, which is made from its chunks if the store has no other.
    fn readable(&self, lower: &Lower) -> anyhow::Result<PathBuf> {
        if lower.file.exists() {
            return Ok(lower.file.clone());
        }
        let file = self.unfinished(&format!("whole-{}", lower.sha256))?;
        if !file.exists() {
            self.store.make_file(&lower.index, Some(lower.sha256), &file)?;
        }
        Ok(file)
    }

    /// Returns the file that all images with the layer share, in the store or unfinished.
    fn shared_file(&self, layer: &Layer, finished: &[Finished]) -> anyhow::Result<Option<Finished>> {
        let is_it = |(file, made): &&Finished| made.diff_id == layer.diff_id && file.exists();
        if let Some(made) = finished.iter().find(is_it) {
            return Ok(Some(made.clone()));
        }
        let there = self.store.layer(&layer.diff_id)?;
        let file = |layer: &LayerFile| self.store.root().join(LayerFile::path_in(&layer.diff_id, layer.format));
        Ok(there.map(|described| (file(&described), described)))
    }
}

impl Lower {
    fn of((file, described): Finished) -> Self {
        let index = layout::layer_file(&described.diff_id, layout::CHUNK_INDEX);
        Self { file, index, sha256: described.squashfs_sha256, shape: described.shape }
    }
}

/// Returns what a layer of this shape needs from the layers below, base first; `None` if they make no difference. `readable` returns the
/// path of a layer's file.
fn below(
    shape: &Shape,
    lower: &[Lower],
    readable: impl Fn(&Lower) -> anyhow::Result<PathBuf>,
) -> anyhow::Result<Option<Below>> {
    let mut below = Below::default();
    if shape.root.is_none() {
        let root = lower.iter().rev().find_map(|layer| layer.shape.as_ref()?.root);
        below.directories.extend(root.map(|(mode, uid, gid)| (String::new(), Attributes { mode, uid, gid })));
    }
    let hides_all = shape.opaque.iter().any(String::is_empty);
    let mut wanted: BTreeSet<&str> = shape.implied.iter().map(String::as_str).collect();
    for layer in lower.iter().rev() {
        if wanted.is_empty() && !hides_all {
            break;
        }
        let listing = Listing::read(&readable(layer)?, &wanted).with_context(|| layer.file.display().to_string())?;
        let opaque = layer.shape.as_ref().map_or(&[][..], |shape| &shape.opaque);
        wanted.retain(|path| match listing.seen_from_above(path, opaque) {
            Seen::Directory(attributes) => {
                below.directories.insert((*path).to_owned(), attributes);
                false
            }
            Seen::Nothing => false,
            Seen::LayersBelow => true,
        });
        if hides_all {
            below.names.extend(listing.names);
        }
    }
    below.directories.retain(|_, attributes| *attributes != Attributes::default());
    Ok(Some(below).filter(|below| *below != Below::default()))
}

/// Effect of a layer on a path.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Directory(Attributes),
    /// The path is not a directory, and hides those of the layers below.
    Nothing,
    LayersBelow,
}

/// Selected content of a SquashFS file.
#[derive(Debug, Default)]
struct Listing {
    /// Attributes of the requested paths and of those above them; `None` if not a directory.
    paths: BTreeMap<String, Option<Attributes>>,
    /// The names in the root.
    names: BTreeSet<Vec<u8>>,
}

impl Listing {
    /// Lists a file.
    fn read(file: &Path, wanted: &BTreeSet<&str>) -> anyhow::Result<Self> {
        let asked: BTreeSet<&str> = wanted.iter().flat_map(|path| and_above(path)).collect();
        let is_erofs = file.extension().is_some_and(|end| end == layout::EROFS);
        if is_erofs { Self::of_erofs(file, &asked) } else { Self::of_squashfs(file, &asked) }
    }

    fn of_erofs(file: &Path, asked: &BTreeSet<&str>) -> anyhow::Result<Self> {
        let tree = ErofsTree::open(File::open(file)?)?;
        let mut listing = Self { names: tree.root_names()?.into_iter().collect(), ..Self::default() };
        for path in asked {
            if let Some(found) = tree.look_up(path)? {
                listing.paths.insert((*path).to_owned(), found);
            }
        }
        Ok(listing)
    }

    /// Lists a file with `unsquashfs`, which supports all compressions.
    fn of_squashfs(file: &Path, asked: &BTreeSet<&str>) -> anyhow::Result<Self> {
        let mut child = Command::new("unsquashfs")
            .arg("-lln")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run unsquashfs; install squashfs-tools")?;
        let mut listing = Self::default();
        for line in BufReader::new(child.stdout.take().context("no output")?).split(b'\n') {
            listing.add(&line?, asked);
        }
        let status = child.wait()?;
        ensure!(status.success(), "unsquashfs failed ({status})");
        Ok(listing)
    }

    /// Parses a line such as `drwxrwxrwt 0/0   3 2025-01-01 00:00 squashfs-root/tmp`.
    fn add(&mut self, line: &[u8], asked: &BTreeSet<&str>) {
        const ROOT: &[u8] = b" squashfs-root/";
        let Some(start) = line.windows(ROOT.len()).position(|part| part == ROOT) else { return };
        let Some((before, rest)) = line.split_at_checked(start) else { return };
        let name = rest.strip_prefix(ROOT).unwrap_or_default();
        let is_link = before.first() == Some(&b'l');
        let end = name.windows(4).position(|part| part == b" -> ").filter(|_| is_link);
        let name = end.and_then(|end| name.get(..end)).unwrap_or(name);
        if !name.contains(&b'/') {
            self.names.insert(name.to_vec());
        }
        if let Some(path) = std::str::from_utf8(name).ok().filter(|path| asked.contains(path)) {
            self.paths.insert(path.to_owned(), attributes(&String::from_utf8_lossy(before)));
        }
    }

    fn seen_from_above(&self, path: &str, opaque: &[String]) -> Seen {
        match self.paths.get(path) {
            Some(Some(attributes)) => return Seen::Directory(*attributes),
            Some(None) => return Seen::Nothing,
            None => {}
        }
        let hides =
            |above: &str| matches!(self.paths.get(above), Some(None)) || opaque.iter().any(|opaque| opaque == above);
        if hides("") || and_above(path).skip(1).any(hides) { Seen::Nothing } else { Seen::LayersBelow }
    }
}

/// Returns a path and the directories above it, without the root.
fn and_above(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| path.rsplit_once('/').map(|(above, _)| above))
}

/// Returns the attributes of a directory, from the words of a listing; `None` for anything else.
fn attributes(words: &str) -> Option<Attributes> {
    let mut words = words.split_whitespace();
    let (mode, owner) = (words.next()?.strip_prefix('d')?, words.next()?);
    let (uid, gid) = owner.split_once('/')?;
    let bits = mode.bytes().enumerate().fold(0, |bits, (place, letter)| {
        let own = if matches!(letter, b'-' | b'S' | b'T') { 0 } else { 0o400 >> place };
        let special = if matches!(letter, b's' | b'S' | b't' | b'T') { 0o4000 >> (place / 3) } else { 0 };
        bits | own | special
    });
    Some(Attributes { mode: bits, uid: uid.parse().ok()?, gid: gid.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(lines: &[&str], asked: &[&str]) -> Listing {
        let mut listing = Listing::default();
        let asked = asked.iter().flat_map(|path| and_above(path)).collect();
        for line in lines {
            listing.add(line.as_bytes(), &asked);
        }
        listing
    }

    #[test]
    fn a_listing_tells_what_can_be_seen() {
        let lines = [
            "drwxr-xr-x 0/0                   80 2025-01-01 00:00 squashfs-root",
            "drwxrwxrwt 0/0                    3 2025-01-01 00:00 squashfs-root/tmp",
            "drwxrws--- 1000/100               3 2025-01-01 00:00 squashfs-root/home/u",
            "drwx--S--T 7/8                    3 2025-01-01 00:00 squashfs-root/odd dir",
            "crw-r--r-- 0/0            0,  0 2025-01-01 00:00 squashfs-root/gone",
            "lrwxrwxrwx 0/0                    7 2025-01-01 00:00 squashfs-root/lib -> usr/lib",
        ];
        let paths = ["tmp", "home/u", "odd dir", "gone/x", "lib/y", "new", "opaque/z", "home/other"];
        let listing = listing(&lines, &paths);
        let seen: Vec<_> = paths.map(|path| listing.seen_from_above(path, &["opaque".into()])).into();
        let directory = |mode, uid, gid| Seen::Directory(Attributes { mode, uid, gid });
        let [tmp, home, odd] = [directory(0o1777, 0, 0), directory(0o2770, 1000, 100), directory(0o3700, 7, 8)];
        let [gone, lib, opaque] = [Seen::Nothing, Seen::Nothing, Seen::Nothing];
        assert_eq!(seen, [tmp, home, odd, gone, lib, Seen::LayersBelow, opaque, Seen::LayersBelow]);
        let names: Vec<_> = listing.names.iter().map(|name| String::from_utf8_lossy(name)).collect();
        assert_eq!(names, ["gone", "lib", "odd dir", "tmp"]);
    }
}
