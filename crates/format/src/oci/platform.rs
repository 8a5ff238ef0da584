//! The platform of an image, with Go's names, which all container tools use.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// An operating system, an architecture, and perhaps a variant of it: `linux/arm64/v8`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// Operating system, such as `linux`.
    #[serde(default)]
    pub os: String,
    /// Architecture, such as `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// Variant, such as `v8`.
    #[serde(default)]
    pub variant: Option<String>,
}

impl Platform {
    /// Returns the platform that this program was built for.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            same => same,
        };
        Self { os: std::env::consts::OS.to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    /// Returns `true` if an image for `found` runs on this platform. An image without a variant fits every variant.
    #[must_use]
    pub fn takes(&self, found: &Self) -> bool {
        let same_variant = match (&self.variant, &found.variant) {
            (Some(wanted), Some(found)) => wanted == found,
            _ => true,
        };
        self.os == found.os && self.architecture == found.architecture && same_variant
    }
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let good = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
        };
        let wrong = || "a platform is OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/arm64".to_owned();
        if !parts.iter().all(|part| good(part) && !part.starts_with('-')) {
            return Err(wrong());
        }
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant.to_owned())),
            _ => return Err(wrong()),
        };
        // Names of the kernel.
        let architecture = match architecture {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            known => known,
        };
        Ok(Self { os: os.to_owned(), architecture: architecture.to_owned(), variant })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read() {
        let platform: Platform = "linux/arm64/v8".parse().unwrap();
        assert_eq!(platform.to_string(), "linux/arm64/v8");
        assert_eq!("linux/x86_64".parse::<Platform>().unwrap().to_string(), "linux/amd64");
        for bad in ["", "linux", "linux/", "a/b/c/d", "linux/AMD", "linux/--x"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_variant_that_one_side_leaves_open_fits() {
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        assert!(platform("linux/arm64").takes(&platform("linux/arm64/v8")));
        assert!(platform("linux/arm/v7").takes(&platform("linux/arm")));
        assert!(!platform("linux/arm/v7").takes(&platform("linux/arm/v6")));
        assert!(!platform("linux/arm64").takes(&platform("linux/amd64")));
    }
}
