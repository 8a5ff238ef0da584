//! Compressions of a layer's file.

/// Compression of file contents and metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// zstd at a level from 1 to 22.
    Zstd(u8),
    /// LZ4; `high` for its slow high-compression mode.
    Lz4 {
        /// The high-compression mode.
        high: bool,
    },
    /// zlib at a level from 1 to 9.
    Gzip(u8),
    /// LZMA2.
    Xz,
    /// Only metadata is compressed.
    None,
}

impl Compression {
    /// Returns the compressor's name on the command line, without the level.
    #[must_use]
    pub fn method(self) -> &'static str {
        match self {
            Self::Zstd(_) => "zstd",
            Self::Lz4 { .. } => "lz4",
            Self::Gzip(_) => "gzip",
            Self::Xz => "xz",
            Self::None => "none",
        }
    }
}
