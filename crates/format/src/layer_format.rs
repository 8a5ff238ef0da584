//! The formats of the files in which a store keeps layers.

use serde::{Deserialize, Serialize};

/// The format of a layer's file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerFormat {
    /// SquashFS: every file of earlier releases.
    #[default]
    Squashfs,
    /// EROFS.
    Erofs,
}

impl LayerFormat {
    /// All formats.
    pub const ALL: [Self; 2] = [Self::Squashfs, Self::Erofs];

    /// Returns the name in options and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Squashfs => "squashfs",
            Self::Erofs => "erofs",
        }
    }

    /// Returns the name as its authors write it.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Squashfs => "SquashFS",
            Self::Erofs => "EROFS",
        }
    }

    /// Returns the format with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub(crate) fn is_squashfs(&self) -> bool {
        *self == Self::Squashfs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_options_and_of_json() {
        for format in LayerFormat::ALL {
            assert_eq!(LayerFormat::named(format.name()), Some(format));
            assert_eq!(serde_json::to_value(format).unwrap(), format.name());
        }
        assert_eq!(LayerFormat::named("ext4"), None);
    }
}
