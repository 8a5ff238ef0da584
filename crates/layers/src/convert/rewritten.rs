//! The archive for mksquashfs without running it, for fuzzing.

use super::entries::Seen;
use super::owners::Owners;
use super::plan::Plan;
use super::rewrite::{Rules, Stop, rewrite, rewrite_planned};
use crate::content::{Content, ContentDigest, id_of_root};
use crate::error::ConvertError;
use crate::path::LayerPath;
use crate::tar::entry::Meta;
use crate::tar::limits::Limits;
use crate::tar::reader::TarReader;
use crate::unpacked::of_archive;

/// The rewritten layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// The archive for mksquashfs.
    pub archive: Vec<u8>,
    /// The digest of the layer's content, as recorded.
    pub content: ContentDigest,
    /// The digest of the content of `archive`.
    pub archived: ContentDigest,
}

/// Rewrites the uncompressed archive of a layer.
///
/// # Errors
/// [`ConvertError`] if the archive is not a valid layer, or the result cannot be read.
pub fn rewritten(layer: &[u8], limits: Limits) -> Result<Rewritten, ConvertError> {
    let rules = Rules { limits, ..Rules::default() };
    let tar = || TarReader::new(layer).limited_to(limits);
    let mut root = Content::default();
    let mut start = |meta: &Meta| {
        root = Content::default();
        root.add(&LayerPath::root(), id_of_root(meta));
        Ok(Vec::new())
    };
    let written = match rewrite(&mut tar(), rules, &mut start) {
        Err(Stop::NeedsPlan) => {
            let plan = Plan::make(&mut tar(), limits, Owners::Keep)?;
            rewrite_planned(&mut tar(), plan, rules, &mut start)
        }
        done => done,
    };
    let (archive, Seen { content, .. }) = written.map_err(Stop::into_error)?;
    let archived = of_archive(&archive[..], root)?;
    Ok(Rewritten { archive, content: content.finish(), archived })
}
