//! The file system of a path of this machine.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags, fstatfs, open};

use crate::kind::{Kind, subtype};
use crate::mounts::Mount;

/// The mounts that this process sees.
const MOUNTS: &str = "/proc/self/mountinfo";

/// The file system below a path. Its text is what users call it: `NFS 4.2`, `FUSE (own)`, `ext4`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// Its kind.
    pub kind: Kind,
    /// The mount; `None` if it is in another mount namespace.
    pub mount: Option<Mount>,
}

impl FileSystem {
    /// Looks at the file system of a path. Waits for a file system that does not respond.
    ///
    /// # Errors
    /// Those of opening the path.
    pub fn of(path: &Path) -> io::Result<Self> {
        let file = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Self::of_file(file)
    }

    /// Looks at the file system of an open file, which may be open by `O_PATH`.
    ///
    /// # Errors
    /// Those of `fstatfs(2)`, where the mounts do not have it.
    pub fn of_file(file: impl AsFd) -> io::Result<Self> {
        let descriptor = file.as_fd().as_raw_fd();
        let information = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).unwrap_or_default();
        let mounts = fs::read_to_string(MOUNTS).unwrap_or_default();
        match mount_of(&information, &mounts) {
            Some(mount) => Ok(Self { kind: Kind::of_type(&mount.file_system), mount: Some(mount) }),
            None => Ok(Self { kind: Kind::of_number(i128::from(fstatfs(file)?.f_type)), mount: None }),
        }
    }

    /// The file system that is mounted at a path or above it, by the text of the path alone: nothing is looked up, so nothing can
    /// hang. Symbolic links are not followed.
    #[must_use]
    pub fn mounted_above(path: &Path) -> Option<Self> {
        let mount = above(path, &Mount::parse_all(&fs::read_to_string(MOUNTS).ok()?))?;
        Some(Self { kind: Kind::of_type(&mount.file_system), mount: Some(mount) })
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(mount) = &self.mount else { return f.write_str(self.kind.name) };
        let own = mount.file_system.as_str();
        match (self.kind.name, mount.value("vers"), subtype(own)) {
            (name @ ("NFS" | "SMB"), Some(version), _) => write!(f, "{name} {version}"),
            ("FUSE", _, Some(subtype)) => write!(f, "FUSE ({subtype})"),
            ("ext4", _, _) => f.write_str(own),
            _ if !self.kind.is_known() => f.write_str(own),
            (name, _, _) => f.write_str(name),
        }
    }
}

/// Finds the mount of an open file by the texts of its `fdinfo` and of the mounts.
fn mount_of(information: &str, mounts: &str) -> Option<Mount> {
    let id: u64 = information.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())?;
    mounts.lines().filter_map(Mount::parse).find(|mount| mount.id == id)
}

/// The mount with the longest mount point that is a path or above it; of several at one place the last, which covers the others.
fn above(path: &Path, mounts: &[Mount]) -> Option<Mount> {
    let candidates = mounts.iter().filter(|mount| path.starts_with(&mount.mount_point));
    candidates.max_by_key(|mount| mount.mount_point.components().count()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "21 1 0:19 / / rw - ext3 /dev/vda rw\n22 21 0:20 / /shared rw - nfs4 s:/x rw,vers=4.1\n\
                         23 22 0:21 / /shared/a rw - fuse.own own rw\n24 21 0:22 / /shared rw - tmpfs t rw\n";

    fn shown(path: &str) -> String {
        let mount = above(Path::new(path), &Mount::parse_all(LINES)).unwrap();
        FileSystem { kind: Kind::of_type(&mount.file_system), mount: Some(mount) }.to_string()
    }

    #[test]
    fn the_mount_above_a_path_is_found_by_its_text() {
        assert_eq!(
            ["/", "/shared/b", "/shared/a/b", "/sharedness"].map(shown),
            ["ext3", "tmpfs", "FUSE (own)", "ext3"]
        );
        let mount = mount_of("pos:\t0\nmnt_id:\t22\n", LINES).unwrap();
        let file_system = FileSystem { kind: Kind::of_type(&mount.file_system), mount: Some(mount) };
        assert_eq!(file_system.to_string(), "NFS 4.1");
        assert_eq!(mount_of("mnt_id:\t99\n", LINES), None);
    }

    #[test]
    fn a_path_of_this_machine_has_a_file_system() {
        let proc = FileSystem::of(Path::new("/proc/self/stat")).unwrap();
        assert_eq!((proc.kind.is_known(), proc.to_string().as_str()), (false, "proc"));
        let directory = tempfile::tempdir().unwrap();
        let found = FileSystem::of(directory.path()).unwrap();
        assert_eq!(FileSystem::mounted_above(&directory.path().canonicalize().unwrap()), Some(found));
        assert!(FileSystem::of(&directory.path().join("none")).is_err());
    }
}
