//! The program that makes a layer's file, by the file's format.

use std::path::Path;

use parallax_format::LayerFormat;

use crate::error::ConvertError;
use crate::mkfs_erofs::{ErofsOptions, MkfsErofs};
use crate::mksquashfs::{Mksquashfs, SquashfsOptions};
use crate::running::Running;
use crate::tar::entry::Meta;

/// A program and its options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// SquashFS files.
    Squashfs(Mksquashfs, SquashfsOptions),
    /// EROFS files.
    Erofs(MkfsErofs, ErofsOptions),
}

impl Maker {
    /// Returns the format of the files.
    #[must_use]
    pub fn format(&self) -> LayerFormat {
        match self {
            Self::Squashfs(..) => LayerFormat::Squashfs,
            Self::Erofs(..) => LayerFormat::Erofs,
        }
    }

    /// Starts the program, which reads a tar archive and writes `file`; `root` are the attributes of the root directory.
    pub(crate) fn start(&self, file: &Path, root: &Meta) -> Result<Running, ConvertError> {
        match self {
            Self::Squashfs(tool, options) => tool.start(file, options, root),
            Self::Erofs(_, options) => MkfsErofs::start(file, options),
        }
    }

    /// Returns `true` if the archive must have an entry of the root directory.
    pub(crate) fn reads_root_entry(&self) -> bool {
        matches!(self, Self::Erofs(..))
    }

    /// Returns `true` if the file of a layer with hard links may be corrupt.
    pub(crate) fn has_link_defect(&self) -> bool {
        matches!(self, Self::Squashfs(tool, _) if tool.has_link_defect())
    }
}
