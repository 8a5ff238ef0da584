//! Merges all layers of an image into one, without the files that upper layers hide.
//!
//! Every layer is read twice: once to find the remaining files, once to write them. Only names are kept in memory.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};

use parallax_format::digest::DiffId;
use sha2::{Digest as _, Sha256};

use super::emit::{Emitter, Sink};
use super::entries::{Seen, next_entry};
use super::layer::{Converted, Layer, finish, reading, start};
use super::layout::{Layout, default_directory};
use super::plan::Plan;
use crate::decompress::hex;
use crate::error::{ConvertError, EntryError};
use crate::maker::Maker;
use crate::path::{LayerPath, remove_below};
use crate::tar::entry::{Meta, TarError};
use crate::tar::limits::{Allowance, Limits};
use crate::tar::split::TarSplit;

/// The single layer of a flattened image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flattened {
    /// The SHA-256 of the layer's tar stream. The stream is not kept; the same layers always give the same stream.
    pub diff_id: DiffId,
    /// The other properties.
    pub converted: Converted,
}

/// Merges the layers with these diffIDs (hexadecimal, base first) and writes the result as `layer` describes; its own `diff_id` is
/// ignored. `open` returns the stream of the layer at an index, from its start; it is called twice for each layer.
///
/// The limits apply to each layer and to the result.
///
/// # Errors
/// As [`crate::convert()`].
pub fn flatten<R: Read + Send>(
    diff_ids: &[&str],
    layer: Layer<'_>,
    maker: &Maker,
    mut open: impl FnMut(usize) -> io::Result<R>,
) -> Result<Flattened, ConvertError> {
    let Layer { file, limits, owners, .. } = layer;
    let mut merged = Merged::new(limits);
    for (index, diff_id) in diff_ids.iter().enumerate() {
        let source = open(index).map_err(ConvertError::Read)?;
        let plan =
            reading(source, diff_id, limits, None, |tar| Plan::make(tar, limits, owners).map_err(ConvertError::from))?;
        merged.add(index, plan.result)?;
    }
    let names = merged.names();
    let root = merged.root.unwrap_or_else(default_directory);
    let split = layer.tar_split.map(TarSplit::create);
    let to = Hashed { to: start(maker, file, &root)?, hash: Sha256::new(), size: 0, split };
    let mut to = Emitter::new(to, &root);
    let mut seen = Seen::new(owners);
    seen.owners.count(&root);
    for (index, diff_id) in diff_ids.iter().enumerate() {
        let source = open(index).map_err(ConvertError::Read)?;
        reading(source, diff_id, limits, None, |tar| -> Result<(), ConvertError> {
            let mut removed = Seen::new(owners);
            while let Some((entry, _)) = next_entry(tar, &mut removed)? {
                if let Some((first, links)) = names.get(&(index, entry.index)).and_then(|names| names.split_first()) {
                    seen.owners.count(&entry.meta);
                    to.names(first, links, &entry, tar)?;
                }
            }
            seen.owners.add_unusual(removed.owners.unusual);
            seen.dropped_xattrs.append(&mut removed.dropped_xattrs);
            Ok(tar.drain()?)
        })?;
    }
    write_directories(merged.nodes, &mut to, &mut seen).map_err(ConvertError::of_write)?;
    let (Hashed { to: running, hash, size, split }, content) = to.finish().map_err(ConvertError::of_write)?;
    let converted = finish(running, maker, file, Seen { content, ..seen }, size, split)?;
    Ok(Flattened { diff_id: hex(hash).into(), converted })
}

fn write_directories<W: Sink>(
    nodes: BTreeMap<LayerPath, Node>,
    to: &mut Emitter<W>,
    seen: &mut Seen,
) -> io::Result<()> {
    let mut layout = Layout::new(Limits::default());
    for (path, node) in nodes {
        if let Node::Directory(meta) = node {
            layout.directories.insert(path, meta);
        }
    }
    layout.write(to, None, &mut seen.owners).map(drop)
}

/// The kind of a path in the layers so far.
#[derive(Debug)]
enum Node {
    /// A directory and its attributes, if a layer has an entry for it.
    Directory(Option<Meta>),
    /// The layer and the index of the entry with the content.
    Leaf((usize, u64)),
}

/// The merged layers so far.
#[derive(Debug)]
struct Merged {
    nodes: BTreeMap<LayerPath, Node>,
    root: Option<Meta>,
    left: Allowance,
}

impl Merged {
    fn new(limits: Limits) -> Self {
        Self { nodes: BTreeMap::new(), root: None, left: Allowance::new(limits) }
    }

    /// Adds a layer on top, as overlayfs does.
    fn add(&mut self, layer: usize, plan: Plan) -> Result<(), TarError> {
        let Plan { names, layout } = plan;
        self.root = layout.root.or(self.root.take());
        for hidden in &layout.whiteouts {
            self.nodes.remove(hidden);
            remove_below(&mut self.nodes, hidden);
        }
        for directory in &layout.opaque {
            if directory.is_root() {
                self.nodes.clear();
            }
            remove_below(&mut self.nodes, directory);
        }
        for (path, meta) in layout.directories {
            self.take(&path, meta.as_ref())?;
            match self.nodes.get_mut(&path) {
                // A directory without an entry keeps the attributes of the layers below.
                Some(Node::Directory(known)) => *known = meta.or(known.take()),
                _ => drop(self.nodes.insert(path, Node::Directory(meta))),
            }
        }
        for (index, paths) in names {
            for path in paths {
                self.take(&path, None)?;
                remove_below(&mut self.nodes, &path);
                self.nodes.insert(path, Node::Leaf((layer, index)));
            }
        }
        Ok(())
    }

    fn take(&mut self, path: &LayerPath, meta: Option<&Meta>) -> Result<(), TarError> {
        let refused = |error: EntryError| TarError::refuse(path.as_bytes(), error);
        self.left.take(path.as_bytes()).map_err(refused)?;
        meta.map_or(Ok(()), |meta| self.left.take_xattrs(meta.xattr_bytes())).map_err(refused)
    }

    /// Returns the remaining names of each entry's content; the entry is written under the first name.
    fn names(&self) -> HashMap<(usize, u64), Vec<LayerPath>> {
        let mut names: HashMap<_, Vec<LayerPath>> = HashMap::new();
        for (path, node) in &self.nodes {
            if let Node::Leaf(content) = node {
                names.entry(*content).or_default().push(path.clone());
            }
        }
        names
    }
}

/// A destination that passes the archive on and computes its digest.
struct Hashed<'s, W> {
    to: W,
    hash: Sha256,
    size: u64,
    split: Option<TarSplit<'s>>,
}

impl<W: Write> Sink for Hashed<'_, W> {
    fn begin_file(&mut self, path: &LayerPath) {
        if let Some(split) = &mut self.split {
            split.begin_file(path);
        }
    }

    fn end_file(&mut self) {
        if let Some(split) = &mut self.split {
            split.end_file();
        }
    }
}

impl<W: Write> Write for Hashed<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        if let Some(split) = &mut self.split {
            split.bytes(bytes);
        }
        self.size += bytes.len() as u64;
        self.to.write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::owners::Owners;
    use crate::tar::reader::TarReader;
    use crate::testing::Archive;

    /// Returns the remaining names of these layers with the layer's index; directories end in a slash.
    fn merged(layers: &[Vec<u8>]) -> Vec<String> {
        let limits = Limits::default();
        let mut merged = Merged::new(limits);
        for (index, layer) in layers.iter().enumerate() {
            merged.add(index, Plan::make(&mut TarReader::new(&layer[..]), limits, Owners::Keep).unwrap()).unwrap();
        }
        let row = |(path, node): (&LayerPath, &Node)| match node {
            Node::Leaf((layer, _)) => format!("{path}={layer}"),
            Node::Directory(_) => format!("{path}/"),
        };
        merged.nodes.iter().map(row).collect()
    }

    fn base() -> Vec<u8> {
        Archive::default().dir("a").file("a/x", b"1").file("a/y", b"2").file("b", b"3").link(b'1', "c", "b").end()
    }

    #[test]
    fn upper_layers_win() {
        let top = Archive::default().file("a/x", b"new").file("n/m", b"").end();
        assert_eq!(merged(&[base(), top]), ["a/", "a/x=1", "a/y=0", "b=0", "c=0", "n/", "n/m=1"]);
    }

    #[test]
    fn whiteouts_and_opaque_directories_hide_what_is_below_only() {
        let removed = Archive::default().file("a/.wh.x", b"").file(".wh.b", b"").end();
        assert_eq!(merged(&[base(), removed]), ["a/", "a/y=0", "c=0"]);
        let opaque = Archive::default().file("a/new", b"").file("a/.wh..wh..opq", b"").end();
        assert_eq!(merged(&[base(), opaque.clone()]), ["a/", "a/new=1", "b=0", "c=0"]);
        let all = Archive::default().file(".wh..wh..opq", b"").file("only", b"").end();
        assert_eq!(merged(&[base(), all, opaque]), ["a/", "a/new=2", "only=1"]);
        let again = Archive::default().file(".wh.a", b"").dir("a").file("a/z", b"").end();
        assert_eq!(merged(&[base(), again]), ["a/", "a/z=1", "b=0", "c=0"]);
    }

    #[test]
    fn files_and_directories_replace_each_other() {
        let file = Archive::default().file("a", b"").end();
        assert_eq!(merged(&[base(), file]), ["a=1", "b=0", "c=0"]);
        let directory = Archive::default().dir("b").file("b/x", b"").end();
        assert_eq!(merged(&[base(), directory]), ["a/", "a/x=0", "a/y=0", "b/", "b/x=1", "c=0"]);
    }
}
