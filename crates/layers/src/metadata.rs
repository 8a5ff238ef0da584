//! The metadata image of a directory: a SquashFS file with everything about its files but their contents.
//!
//! Each regular file is a hole of the same size, with the attributes by which overlayfs takes the contents from a data-only lower layer
//! (`trusted.overlay.metacopy`, `trusted.overlay.redirect`; Linux 6.5). Mounted over the directory with an id map, the image shows owners and
//! modes where the directory's file system cannot map ids. The contents may lie in several directories, the unpacked layers of an image: it then
//! has the files of all layers together.

mod merged;

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use parallax_format::digest::Sha256;
use rustix::fs::{lgetxattr, llistxattr, major, minor};
use rustix::io::Errno;

use crate::content::{FileId, id_of};
use crate::convert::emit::Emitter;
use crate::decompress::digest;
use crate::error::ConvertError;
use crate::mksquashfs::{Mksquashfs, SquashfsOptions};
use crate::path::LayerPath;
use crate::running::Running;
use crate::tar::entry::{Kind, Meta};

use self::merged::Sources;

/// The attribute of a file whose contents are in another layer (Linux, `fs/overlayfs/overlayfs.h`).
const METACOPY: &[u8] = b"trusted.overlay.metacopy";
/// The attribute with the path of the contents.
const REDIRECT: &[u8] = b"trusted.overlay.redirect";
/// Extended attributes that a container can use: capabilities of programs, and those of users.
const KEPT: [&[u8]; 2] = [b"security.capability", b"user."];
/// Size of the attributes of one file that are read, in bytes.
const MAX_XATTRS: usize = 64 << 10;
/// Names and values of extended attributes.
type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Permission bits, with setuid, setgid and sticky.
const MODE: u32 = 0o7777;

/// A metadata image that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataImage {
    /// The size of the SquashFS file in bytes.
    pub squashfs_size: u64,
    /// The SHA-256 of the SquashFS file.
    pub squashfs_sha256: Sha256,
    /// What is in it.
    pub totals: Totals,
}

/// What a metadata image has in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Sum of the sizes of the regular files in bytes.
    pub size: u64,
    /// Number of names, directories included.
    pub entries: u64,
    /// The highest user id that owns a file.
    pub max_uid: u32,
    /// The highest group id that owns a file.
    pub max_gid: u32,
}

/// An error of making a metadata image.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// A file or a directory cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// The file or the directory.
        path: PathBuf,
        /// The error of the system.
        cause: io::Error,
    },
    /// The SquashFS file cannot be written.
    #[error(transparent)]
    Write(#[from] ConvertError),
}

/// Writes the metadata image of `tree`, a directory, to `file`, which must not exist; after an error it may exist and is invalid. Two
/// hosts that see the same directory write the same bytes (with squashfs-tools 4.6; earlier ones give the root the current time). With `parts`, directories below `tree`, the image has the files of these as layers,
/// the topmost first; names that begin with `.wh.` delete files of lower layers (OCI image specification 1.1).
///
/// A file system that shows all files as one account, as CVMFS does, does not tell who owned them in the image: files of the account
/// that has the directory become root's.
///
/// # Errors
/// [`MetadataError`]. The file is complete and durable only on success.
pub fn metadata_image(
    tree: &Path,
    parts: &[String],
    file: &Path,
    tool: Mksquashfs,
) -> Result<MetadataImage, MetadataError> {
    let sources = Sources::new(tree, parts);
    let top = sources.place(0, &LayerPath::root());
    let of_root = attributes(&top)?;
    let account = (of_root.uid(), of_root.gid());
    let root = Meta { xattrs: Vec::new(), ..meta(&of_root, &top, account)? };
    // Only lists of blocks grow with the size of holes: the largest blocks make the shortest ones.
    let options = SquashfsOptions { block_size: 1 << 20, ..SquashfsOptions::default() };
    let to = Emitter::new(tool.start(file, &options, &root)?, &root);
    let totals = Totals { size: 0, entries: 1, max_uid: root.uid, max_gid: root.gid };
    let mut writer = Writer { account, to, files: HashMap::new(), totals };
    let mut left = vec![(LayerPath::root(), sources.all())];
    while let Some((directory, of)) = left.pop() {
        // In the order of the names.
        let entries = sources.entries(&directory, &of);
        for (name, of) in entries.map_err(|(path, cause)| MetadataError::Read { path, cause })? {
            let path = directory.child(name.as_bytes());
            let Some(&source) = of.first() else { continue };
            if writer.entry(&path, &sources.place(source, &path), &sources.within(source, &path))? {
                left.push((path, of));
            }
        }
    }
    let Writer { to, totals, .. } = writer;
    let (running, _) = to.finish().map_err(ConvertError::of_write)?;
    running.finish()?;
    let written = || -> io::Result<(Sha256, u64)> {
        let file = File::open(file)?;
        file.sync_all()?;
        digest(file)
    };
    let (squashfs_sha256, squashfs_size) = written().map_err(ConvertError::Write)?;
    Ok(MetadataImage { squashfs_size, squashfs_sha256, totals })
}

/// A metadata image under construction.
struct Writer {
    /// The user and the group that stand for root.
    account: (u32, u32),
    to: Emitter<Running>,
    /// The first name of files with several, by device and inode.
    files: HashMap<(u64, u64), (LayerPath, FileId)>,
    totals: Totals,
}

impl Writer {
    /// Writes one entry, which lies at `place`, that is `within` the tree; returns `true` for a directory.
    fn entry(&mut self, path: &LayerPath, place: &Path, within: &[u8]) -> Result<bool, MetadataError> {
        let found = attributes(place)?;
        let mut meta = meta(&found, place, self.account)?;
        let Some(kind) = kind(&found, place)? else { return Ok(false) };
        let written = |error| MetadataError::Write(ConvertError::of_write(error));
        self.totals.entries += 1;
        self.totals.max_uid = self.totals.max_uid.max(meta.uid);
        self.totals.max_gid = self.totals.max_gid.max(meta.gid);
        let key = (found.dev(), found.ino());
        if let Some((first, id)) = self.files.get(&key) {
            self.to.link(path, first.as_bytes(), &meta, *id);
            return Ok(false);
        }
        if let Kind::File(size @ 1..) = kind {
            meta.xattrs.push((METACOPY.to_vec(), Vec::new()));
            meta.xattrs.push((REDIRECT.to_vec(), [b"/", within].concat()));
            self.totals.size += size;
        }
        self.to.entry(path, &kind, &meta).map_err(written)?;
        if let Kind::File(size) = kind {
            self.to.hole(size).map_err(written)?;
        }
        if found.nlink() > 1 && !found.is_dir() {
            self.files.insert(key, (path.clone(), id_of(&kind, &meta)));
        }
        Ok(kind == Kind::Dir)
    }
}

fn attributes(path: &Path) -> Result<Metadata, MetadataError> {
    fs::symlink_metadata(path).map_err(|cause| MetadataError::Read { path: path.to_owned(), cause })
}

/// Returns what a file is; `None` for a socket, which no image has.
fn kind(found: &Metadata, path: &Path) -> Result<Option<Kind>, MetadataError> {
    let of = found.file_type();
    let device = || (major(found.rdev()), minor(found.rdev()));
    Ok(Some(if of.is_dir() {
        Kind::Dir
    } else if of.is_file() {
        Kind::File(found.len())
    } else if of.is_symlink() {
        let target = fs::read_link(path).map_err(|cause| MetadataError::Read { path: path.to_owned(), cause })?;
        Kind::Symlink(target.as_os_str().as_bytes().to_vec())
    } else if of.is_char_device() {
        Kind::Char(device().0, device().1)
    } else if of.is_block_device() {
        Kind::Block(device().0, device().1)
    } else if of.is_fifo() {
        Kind::Fifo
    } else {
        return Ok(None);
    }))
}

fn meta(found: &Metadata, path: &Path, account: (u32, u32)) -> Result<Meta, MetadataError> {
    let xattrs = xattrs(path).map_err(|error| MetadataError::Read { path: path.to_owned(), cause: error.into() })?;
    Ok(Meta {
        mode: found.mode() & MODE,
        uid: if found.uid() == account.0 { 0 } else { found.uid() },
        gid: if found.gid() == account.1 { 0 } else { found.gid() },
        mtime: found.mtime(),
        xattrs,
    })
}

/// Returns the extended attributes that an image keeps, sorted by name.
fn xattrs(path: &Path) -> Result<Xattrs, Errno> {
    let mut names = vec![0; MAX_XATTRS];
    let size = match llistxattr(path, &mut names) {
        // The file system has none.
        Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Vec::new()),
        listed => listed?,
    };
    names.truncate(size);
    let mut kept = Vec::new();
    for name in names.split(|&byte| byte == 0).filter(|name| KEPT.iter().any(|start| name.starts_with(start))) {
        let mut value = vec![0; MAX_XATTRS];
        let size = lgetxattr(path, name, &mut value)?;
        value.truncate(size);
        kept.push((name.to_vec(), value));
    }
    kept.sort_unstable();
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::process::Command;

    use super::*;

    fn listing(file: &Path) -> String {
        let listed = Command::new("unsquashfs").arg("-lln").arg(file).output().unwrap();
        String::from_utf8(listed.stdout).unwrap()
    }

    #[test]
    fn it_has_all_but_the_contents_and_the_same_bytes_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        fs::create_dir_all(tree.join("usr/empty")).unwrap();
        fs::write(tree.join("usr/file"), vec![7; 300_000]).unwrap();
        fs::hard_link(tree.join("usr/file"), tree.join("usr/same")).unwrap();
        fs::write(tree.join("nothing"), "").unwrap();
        symlink("usr/file", tree.join("link")).unwrap();
        fs::set_permissions(tree.join("usr/file"), fs::Permissions::from_mode(0o4750)).unwrap();
        let tool = Mksquashfs::find().unwrap();
        let [one, two] = ["one", "two"].map(|name| directory.path().join(name));
        let made = metadata_image(&tree, &[], &one, tool).unwrap();
        let again = metadata_image(&tree, &[], &two, tool).unwrap();
        assert_eq!((made.squashfs_size, made.totals), (again.squashfs_size, again.totals));
        if tool.sets_root_time() {
            assert_eq!(fs::read(&one).unwrap(), fs::read(&two).unwrap());
        } else {
            let below_root =
                |file: &Path| listing(file).lines().filter(|line| line.contains("root/")).collect::<String>();
            assert_eq!(below_root(&one), below_root(&two));
        }
        assert_eq!(made.totals, Totals { size: 300_000, entries: 7, max_uid: 0, max_gid: 0 });
        assert!(made.squashfs_size < 8192, "{made:?}");
        let listed = listing(&one);
        let lines = |end: &str| listed.lines().filter(|line| line.ends_with(end)).collect::<Vec<_>>().concat();
        assert!(lines("/usr/file").starts_with("-rwsr-x--- 0/0"), "{listed}");
        assert!(lines("/usr/same").contains(" 300000 "), "{listed}");
        assert!(listed.contains("/link -> usr/file") && lines("/usr/empty").starts_with('d'), "{listed}");

        // The same files as a layer below another one, which deletes one of them.
        fs::create_dir(directory.path().join("above")).unwrap();
        fs::write(directory.path().join("above/.wh.link"), "").unwrap();
        let merged = directory.path().join("merged");
        let parts = ["above", "tree"].map(str::to_owned);
        let totals = metadata_image(directory.path(), &parts, &merged, tool).unwrap().totals;
        assert_eq!(totals, Totals { entries: 6, ..made.totals });
        assert!(!listing(&merged).contains("link"), "{}", listing(&merged));

        let missing = metadata_image(&tree.join("missing"), &[], &directory.path().join("three"), tool).unwrap_err();
        assert!(missing.to_string().contains("cannot read"), "{missing}");
    }
}
