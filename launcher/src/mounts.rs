//! Paths that belong to the image, where a directory of the node would hide a part of it.

use std::path::Path;

/// Directories that make up the image. A user's directory that is, or lies in, one of these would hide a part of the image, so
/// it is not mounted automatically; an administrator may still configure it.
const OF_THE_IMAGE: [&str; 14] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr", "/var",
];

/// Whether a path is one of the directories that make up an image.
pub(crate) fn is_of_image(path: &Path) -> bool {
    OF_THE_IMAGE.iter().any(|part| path == Path::new(part))
}

/// Whether a path is one of the directories that make up an image, or lies in one.
pub(crate) fn hides_image(path: &Path) -> bool {
    path.ancestors().any(|above| is_of_image(above) && (above != Path::new("/") || path == above))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_the_image_are_known() {
        for path in ["/", "/usr", "/usr/local/src", "/dev/shm"] {
            assert!(hides_image(Path::new(path)), "{path}");
        }
        for path in ["/root", "/tmp/x", "/home/u1", "/usrlocal"] {
            assert!(!hides_image(Path::new(path)), "{path}");
        }
        assert!(is_of_image(Path::new("/usr")) && !is_of_image(Path::new("/usr/local")));
    }
}
