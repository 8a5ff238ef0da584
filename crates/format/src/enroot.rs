//! Images as enroot, pyxis and environment definition files name them: `[USER@][REGISTRY#]IMAGE[:TAG]`, or a file.

use crate::digest::Digest;
use crate::requested::directory;

/// What comes before a name that is meant to be pulled by enroot.
const TRANSPORT: &str = "docker://";

/// An image as enroot names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnrootImage {
    /// A name or the absolute path of a directory, as this project writes them.
    Name(String),
    /// The path of a SquashFS file, or a relative one, as written.
    File(String),
}

impl EnrootImage {
    /// Reads what a user wrote. A name may be invalid: it is checked where it is used.
    ///
    /// The user of a registry is left out: images come from the store, where no registry is asked.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if directory(text).is_some() {
            return Self::Name(text.to_owned());
        }
        if text.starts_with(['/', '.']) {
            return Self::File(text.to_owned());
        }
        let name = text.strip_prefix(TRANSPORT).unwrap_or(text);
        let name = match name.split_once('@') {
            Some((_, rest)) if Digest::parse(rest).is_none() => rest,
            _ => name,
        };
        Self::Name(name.replacen('#', "/", 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_files() {
        let digest = format!("python@sha256:{}", "ab".repeat(32));
        for (text, expected) in [
            ("ubuntu", "ubuntu"),
            ("nvcr.io#nvidia/pytorch:24.01-py3", "nvcr.io/nvidia/pytorch:24.01-py3"),
            ("nvcr.io/nvidia/pytorch:24.01-py3", "nvcr.io/nvidia/pytorch:24.01-py3"),
            ("$oauthtoken@nvcr.io#nvidia/cuda", "nvcr.io/nvidia/cuda"),
            ("docker://me@host:5000#app:1", "host:5000/app:1"),
            (&digest, &digest),
        ] {
            assert_eq!(EnrootImage::parse(text), EnrootImage::Name(expected.to_owned()), "{text}");
        }
        assert_eq!(EnrootImage::parse("/images/python:3"), EnrootImage::Name("/images/python:3".to_owned()));
        for file in ["/x/a.sqsh", "./a.sqsh", "../a"] {
            assert_eq!(EnrootImage::parse(file), EnrootImage::File(file.to_owned()));
        }
    }
}
