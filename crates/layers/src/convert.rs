//! From the tar stream of a layer to its file, in the order of the work:
//!
//! 1. [`layer`] runs the passes over a layer, [`flatten`] those over all layers of an image.
//! 2. [`stream`] decompresses and hashes the bytes in threads of their own.
//! 3. [`entries`] reads the next entry and finds its place: [`owners`] are squashed, links followed ([`resolve`]).
//! 4. [`rewrite`] passes entries on. If later entries replace earlier ones, it follows a [`plan`] made by a pass before.
//! 5. [`layout`] keeps directories and whiteouts until the end. What they depend on in lower layers is in [`below`].
//! 6. [`emit`] writes the archive for mksquashfs or mkfs.erofs.

pub(crate) mod below;
pub(crate) mod emit;
mod entries;
pub(crate) mod flatten;
pub(crate) mod layer;
mod layout;
pub(crate) mod owners;
mod plan;
mod resolve;
mod rewrite;
pub(crate) mod rewritten;
mod stream;
