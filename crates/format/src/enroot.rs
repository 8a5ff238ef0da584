//! enroot: how its users, those of pyxis and environment definition files name images, `[USER@][REGISTRY#]IMAGE[:TAG]` or a path, and
//! what it writes into images.

use crate::digest::Digest;

mod start_script;

pub use start_script::{START_SCRIPT, VARIABLES, execution};

/// What comes before a name that is meant to be pulled by enroot.
const TRANSPORT: &str = "docker://";

/// Returns the image that a user of enroot wrote, as this project names it. The result may be invalid: it is checked where it is used.
///
/// The user of a registry is left out: images come from the store, where no registry is asked.
#[must_use]
pub fn image_name(text: &str) -> String {
    if text.starts_with(['/', '.']) {
        return text.to_owned();
    }
    let name = text.strip_prefix(TRANSPORT).unwrap_or(text);
    let name = match name.split_once('@') {
        Some((_, rest)) if Digest::parse(rest).is_none() => rest,
        _ => name,
    };
    name.replacen('#', "/", 1)
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
            ("/images/python:3", "/images/python:3"),
            ("/x/a.sqsh", "/x/a.sqsh"),
            ("./a.sqsh", "./a.sqsh"),
            (&digest, &digest),
        ] {
            assert_eq!(image_name(text), expected, "{text}");
        }
    }
}
