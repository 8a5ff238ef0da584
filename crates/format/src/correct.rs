//! Advice for texts that are not image names but that users of other container tools write as such.

use crate::name::{ImageName, split_suffix};

/// Prefixes by which other tools say where an image comes from (containers-transports(5), enroot, Apptainer).
const TRANSPORTS: [&str; 15] = [
    "docker://",
    "dockerd://",
    "docker-daemon:",
    "docker-archive:",
    "oci-archive:",
    "oci:",
    "dir:",
    "containers-storage:",
    "podman://",
    "oras://",
    "library://",
    "shub://",
    "ostree:",
    "sif:",
    "tarball:",
];

/// File names that end so are SquashFS files.
const SQUASHFS_FILES: [&str; 3] = [".sqsh", ".sqfs", ".squashfs"];
/// File names that end so are images of other tools.
const OTHER_FILES: [&str; 3] = [".sif", ".tar", ".tar.gz"];

/// Returns what to write instead of a text that is not an image name, or `None` where nothing is known.
pub(crate) fn correction(text: &str) -> Option<String> {
    if let Some(transport) = transport(text) {
        let rest = &text[transport.len()..];
        let advice = format!("\"{transport}\" says where an image comes from, and a job names an image of the store");
        return Some(match corrected(rest) {
            Some(name) if !is_path(rest) => format!("{advice}: write \"{name}\""),
            _ => format!("{advice} (\"parallax list\" shows them)"),
        });
    }
    if is_path(text) {
        if is_squashfs_name(text) && !text.contains('/') {
            return Some(format!("the path of a SquashFS file has a slash: write \"./{text}\""));
        }
        let advice = "a job names an image of the store (\"parallax list\" shows them), the path of a directory or of a SquashFS file \
                      (/DIR/NAME, ./NAME); an OCI layout or archive is put into the store with \"parallax migrate\"";
        return Some(advice.to_owned());
    }
    corrected(text).map(|name| format!("write \"{name}\""))
}

/// Whether a text looks like what other tools read an image from, though it may be a name.
pub(crate) fn is_source(text: &str) -> bool {
    transport(text).is_some() || is_path(text)
}

fn transport(text: &str) -> Option<&'static str> {
    TRANSPORTS.into_iter().find(|transport| text.starts_with(transport))
}

fn is_path(text: &str) -> bool {
    text.starts_with(['/', '.', '~']) || is_file_name(text)
}

/// Whether a text ends as the names of files that are images of this or of other tools.
pub(crate) fn is_file_name(text: &str) -> bool {
    is_squashfs_name(text) || OTHER_FILES.iter().any(|ending| text.ends_with(ending))
}

/// Whether a text ends as the names of SquashFS files.
pub fn is_squashfs_name(text: &str) -> bool {
    SQUASHFS_FILES.iter().any(|ending| text.ends_with(ending))
}

/// The name that a text becomes without blanks and a slash at its ends, with enroot's `#` as the slash that it stands for, and with
/// its repository in lower case.
fn corrected(text: &str) -> Option<String> {
    let text = text.trim().trim_end_matches('/').replacen('#', "/", 1);
    let (repository, rest) = split_suffix(&text);
    let name = format!("{}{rest}", repository.to_ascii_lowercase());
    ImageName::from_registry(&name).is_ok().then_some(name)
}

#[cfg(test)]
mod tests {
    use crate::ImageRef;

    fn message(text: &str) -> String {
        ImageRef::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_transport_is_left_out() {
        assert!(message("docker://python").ends_with("write \"python\""), "{}", message("docker://python"));
        assert!(message("docker://quay.io/Org/app:V1").ends_with("write \"quay.io/org/app:V1\""));
        assert!(message("dockerd://python").ends_with("write \"python\""));
        assert!(message("docker-daemon:python:3").ends_with("write \"python:3\""));
        for text in ["oci:/images/app", "docker-archive:/tmp/app.tar:x", "dir:./app"] {
            let message = message(text);
            assert!(message.contains("\"parallax list\"") && !message.contains("write"), "{message}");
        }
    }

    #[test]
    fn a_file_is_not_a_name() {
        for text in ["/images/app.sif", "./app", "~/app.sif", "my images/app.sqsh"] {
            assert!(message(text).contains("the path of a directory"), "{text}: {}", message(text));
        }
        // It may be a name, too; this is told where no store has that.
        assert!(super::correction("app.sqsh").unwrap().ends_with("write \"./app.sqsh\""));
    }

    #[test]
    fn slips_are_corrected() {
        for (text, name) in [
            ("Python:3.12", "python:3.12"),
            ("python/", "python"),
            (" python ", "python"),
            ("nvcr.io#nvidia/pytorch:24.01-py3", "nvcr.io/nvidia/pytorch:24.01-py3"),
            ("0909040C2251", "0909040c2251"),
        ] {
            assert!(message(text).ends_with(&format!("write \"{name}\"")), "{}", message(text));
        }
    }

    #[test]
    fn what_is_beyond_advice_is_told_the_grammar() {
        assert!(message("a b").contains("lower-case letters"));
        assert!(message("python@sha256:12").contains("64 hexadecimal digits"));
    }
}
