//! Turns the tar stream of an image layer into a SquashFS file.
//!
//! The stream is read once, from start to end, with flat memory: [`convert()`] decompresses it, takes the digest of the
//! uncompressed bytes, rewrites the tar on the fly and pipes it into `sqfstar` of squashfs-tools, the only tool that
//! writes SquashFS with extended attributes and hard links. The rewriting
//!
//! - turns the whiteouts of the OCI image specification into those of overlayfs: `.wh.NAME` into a character device
//!   0:0, `.wh..wh..opq` into the attributes `trusted.overlay.opaque` and `user.overlay.opaque` of its directory;
//! - makes duplicate entries mean what extraction would: the last one wins;
//! - writes every header anew in the one form that sqfstar 4.5.1 to 4.7 read right (see `emit`).
//!
//! Directories and whiteouts are held back and written after everything else, because an opaque marker may come after its
//! directory's own entry. sqfstar takes a directory's header after its children.

mod content;
mod convert;
mod decompress;
mod error;
mod mksquashfs;
mod path;
mod tar;
#[cfg(test)]
mod testing;
mod unpacked;

pub use content::ContentDigest;
pub use convert::below::{Attributes, Below, Shape};
pub use convert::flatten::{Flattened, flatten};
pub use convert::layer::{Converted, Layer, convert};
pub use convert::owners::{MAX_USUAL_ID, Owners, UnusualOwners};
pub use convert::rewritten::{Rewritten, rewritten};
pub use error::{ArchiveError, ConvertError, EntryError};
pub use mksquashfs::{Compression, Mksquashfs, SquashfsOptions};
pub use tar::limits::Limits;
pub use tar::member::archive_member;
pub use tar::split::TarSplitFile;
pub use unpacked::content_digest;
