//! Turns the tar stream of an image layer into a SquashFS or EROFS file.
//!
//! [`convert()`] reads the stream once, from start to end, with constant memory: it decompresses the stream, computes the digest
//! of the uncompressed bytes, rewrites the archive and pipes it into mksquashfs of squashfs-tools, the only program that
//! writes SquashFS with extended attributes and hard links, or into mkfs.erofs of erofs-utils. Rewriting
//!
//! - turns the whiteouts of the OCI image specification into those of overlayfs: `.wh.NAME` into a character device
//!   0:0, `.wh..wh..opq` into the attributes `trusted.overlay.opaque` and `user.overlay.opaque` of its directory;
//! - resolves duplicate entries as extraction would: the last entry wins;
//! - writes every header in the one form that mksquashfs 4.5.1 to 4.7 read correctly (see `convert/emit.rs`).
//!
//! Directories and whiteouts are written after all other entries, because an opaque marker may follow the entry of its
//! directory. mksquashfs accepts a directory's header after its children.
//!
//! [`metadata_image()`] makes the SquashFS file of a directory's metadata.

mod compression;
mod content;
mod convert;
mod decompress;
mod erofs_tree;
mod error;
mod fs_verity;
mod maker;
mod metadata;
mod mkfs_erofs;
mod mksquashfs;
mod path;
mod running;
mod tar;
#[cfg(test)]
mod testing;
mod unpacked;

pub use compression::Compression;
pub use content::ContentDigest;
pub use convert::below::{Attributes, Below, Shape};
pub use convert::flatten::{Flattened, flatten};
pub use convert::layer::{Converted, Layer, convert};
pub use convert::owners::{MAX_USUAL_ID, Owners, UnusualOwners};
pub use convert::rewritten::{Rewritten, rewritten};
pub use erofs_tree::ErofsTree;
pub use error::{ArchiveError, ConvertError, EntryError};
pub use fs_verity::fs_verity_digest;
pub use maker::Maker;
pub use metadata::{MetadataError, MetadataImage, Totals, metadata_image};
pub use mkfs_erofs::{ErofsOptions, MkfsErofs};
pub use mksquashfs::{Mksquashfs, SquashfsOptions};
pub use tar::limits::Limits;
pub use tar::member::archive_member;
pub use tar::split::TarSplitFile;
pub use unpacked::content_digest;
