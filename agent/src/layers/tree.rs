//! The directory that has the contents of a metadata image's files.
//!
//! Root mounts the metadata image over it, so whatever that names there is read with root's rights. So it must lie in a repository that the
//! configuration names, and the image must come from a store whose owner is trusted. The user must be able to read the directory, too.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use parallax_sys::credentials::Credentials;
use parallax_sys::mount::DetachedMount;
use rustix::fs::{Mode, OFlags, ResolveFlags, fstatfs, open, openat2};

/// The number of overlays in `statfs(2)` (`linux/magic.h`).
const OVERLAY: i128 = 0x794C_7630;

/// A directory with the contents of files, open.
#[derive(Debug)]
pub struct Tree(OwnedFd);

impl Tree {
    /// Opens a directory in one of the repositories, if the user may and root can. If the contents are in `parts` of it, the user must be able to
    /// read these.
    ///
    /// # Errors
    /// The reason why it cannot be used, a part of a sentence.
    pub fn open(
        directory: &Path,
        parts: &[String],
        repositories: &[PathBuf],
        user: &Credentials,
    ) -> Result<Self, String> {
        let shown = directory.display();
        let in_it = |root: &PathBuf| Some((root.clone(), directory.strip_prefix(root).ok()?.to_owned()));
        let (root, rest) = repositories
            .iter()
            .find_map(in_it)
            .ok_or_else(|| format!("trees.paths in parallax.toml has no repository with {shown}"))?;
        let open_each = || {
            let all =
                if parts.is_empty() { vec![rest.clone()] } else { parts.iter().map(|part| rest.join(part)).collect() };
            all.into_iter().try_for_each(|place| opened(&root, &place).map(drop).map_err(|error| (place, error)))
        };
        let by_user = user.run(open_each).map_err(|error| format!("cannot take on the user's credentials: {error}"))?;
        by_user.map_err(|(place, error)| format!("the user cannot read {}: {error}", root.join(place).display()))?;
        let tree = opened(&root, &rest).map_err(|error| format!("root cannot read {shown}: {error}"))?;
        let kind = fstatfs(&tree).map_err(|error| format!("cannot look at {shown}: {error}"))?.f_type;
        if i128::from(kind) & 0xFFFF_FFFF == OVERLAY {
            return Err(format!("{shown} lies on an overlay, and the kernel allows two on each other only"));
        }
        Ok(Self(tree))
    }

    /// Mounts a metadata image, attached and open, over the directory.
    ///
    /// # Errors
    /// Those of [`DetachedMount::metadata_overlay`].
    pub fn mount(&self, metadata: BorrowedFd<'_>) -> io::Result<DetachedMount> {
        DetachedMount::metadata_overlay(metadata, self.0.as_fd())
    }
}

fn opened(root: &Path, rest: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open(root, flags, Mode::empty())?;
    if rest.as_os_str().is_empty() {
        return Ok(root);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(&root, rest, flags, Mode::empty(), resolve)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_directory_is_used_in_a_named_repository_only() {
        let directory = tempfile::tempdir().unwrap();
        let (repository, elsewhere) = (directory.path().join("repository"), directory.path().join("elsewhere"));
        fs::create_dir_all(repository.join("image")).unwrap();
        fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, repository.join("link")).unwrap();
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let user = Credentials { uid, gid, groups: vec![gid] };
        let opened =
            |path: &Path, parts: &[String]| Tree::open(path, parts, std::slice::from_ref(&repository), &user).map(drop);
        let open = |path: PathBuf| opened(&path, &[]);
        let reason = open(elsewhere).unwrap_err();
        assert!(reason.contains("trees.paths"), "{reason}");
        // Other credentials are for root only.
        if uid == 0 {
            for name in ["link", "missing"] {
                let reason = open(repository.join(name)).unwrap_err();
                assert!(reason.contains("the user cannot read"), "{reason}");
            }
            opened(&repository, &["image".to_owned()]).unwrap();
            for part in ["link", "missing", "../elsewhere"] {
                let reason = opened(&repository, &["image".to_owned(), part.to_owned()]).unwrap_err();
                assert!(reason.contains("the user cannot read") && reason.contains(part), "{reason}");
            }
        }
    }
}
