//! A container's root directory, seen from outside: every path is resolved as inside the container (`openat2(2)` with
//! `RESOLVE_IN_ROOT`, Linux 5.6), so a symbolic link of the image never leads to a file of the node.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, chownat, fchmod, fstat, mkdirat, open, openat,
    openat2, readlinkat, unlinkat,
};
use rustix::io::Errno;

/// Maximum number of symbolic links in one path, as the kernel's.
const MAX_LINKS: usize = 40;
/// The permissions of directories that are made for mount points.
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);

/// A container's root directory.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl From<OwnedFd> for Root {
    /// Takes the descriptor of an open directory.
    fn from(directory: OwnedFd) -> Self {
        Self(directory)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Root {
    /// Opens the root directory at a path of the node.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// Returns `true` if there is a file or directory at the path.
    #[must_use]
    pub fn has(&self, path: &Path) -> bool {
        self.resolve(path, OFlags::PATH).is_ok()
    }

    /// Reads a regular file of at most `limit` bytes; `None` if the path has no regular file.
    ///
    /// # Errors
    /// Those of `openat2(2)` and `read(2)`; `EFBIG` for a longer file.
    pub fn read(&self, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
        // Without NONBLOCK opening a FIFO would wait.
        let file = match self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !is(&file, FileType::RegularFile)? {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        File::from(file).take(limit + 1).read_to_end(&mut bytes)?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > limit) {
            return Err(Errno::FBIG.into());
        }
        Ok(Some(bytes))
    }

    /// Puts a file with these contents at a path, in the place of a file or a symbolic link. Directories that are missing are made.
    /// The file belongs to the container's root user if the user namespace has one, and everybody may read it.
    ///
    /// # Errors
    /// Those of the system calls; `EISDIR` if a directory is there.
    pub fn replace(&self, path: &Path, contents: &[u8]) -> io::Result<()> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::ISDIR.into()) };
        let parent = self.place(parent, FileType::Directory)?;
        match unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&parent, name, flags, Mode::from_raw_mode(0o600))?;
        File::from(file.try_clone()?).write_all(contents)?;
        fchmod(&file, Mode::from_raw_mode(0o644))?;
        Ok(belongs_to_root(&parent, name)?)
    }

    /// Returns the mount point at a path, and makes it if it is missing: a directory or an empty file. The last component, too, may
    /// be a symbolic link of the image.
    ///
    /// # Errors
    /// Those of the system calls; `ENOTDIR` or `EISDIR` if something of the other kind is there.
    pub fn mount_point(&self, path: &Path, is_directory: bool) -> io::Result<OwnedFd> {
        Ok(self.place(path, if is_directory { FileType::Directory } else { FileType::RegularFile })?)
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.0, inside(path), flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    fn place(&self, path: &Path, kind: FileType) -> rustix::io::Result<OwnedFd> {
        match self.resolve(path, OFlags::PATH) {
            Ok(found) => check_kind(found, kind),
            Err(Errno::NOENT) => self.make(path, kind),
            Err(error) => Err(error),
        }
    }

    /// Walks to the path, one component after the other, and makes what is missing.
    fn make(&self, path: &Path, kind: FileType) -> rustix::io::Result<OwnedFd> {
        let mut walk = Walk::to(path);
        while let Some(name) = walk.next() {
            let directory = self.resolve(&walk.walked, OFlags::PATH | OFlags::DIRECTORY)?;
            let wanted = if walk.left.is_empty() { kind } else { FileType::Directory };
            match make_one(&directory, &name, wanted)? {
                None => walk.walked.push(name),
                Some(target) => walk.follow(&target)?,
            }
        }
        check_kind(self.resolve(&walk.walked, OFlags::PATH)?, kind)
    }

    /// Returns the directories on the way to a path, the root directory first, each by its path without symbolic links; with the path's
    /// own if it is a directory. What is missing, or must not be searched, ends the way.
    ///
    /// # Errors
    /// Those of the system calls; `ELOOP` for too many symbolic links.
    pub fn directories(&self, path: &Path) -> io::Result<Vec<(PathBuf, Stat)>> {
        let mut walk = Walk::to(path);
        let mut found = vec![(walk.walked.clone(), fstat(&self.0)?)];
        while let Some(name) = walk.next() {
            let next = walk.walked.join(name);
            let file = match self.resolve(&next, OFlags::PATH | OFlags::NOFOLLOW) {
                Ok(file) => file,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => break,
                Err(error) => return Err(error.into()),
            };
            let stat = fstat(&file)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    // A link may lead through a directory twice.
                    if found.iter().all(|(known, _)| *known != next) {
                        found.push((next.clone(), stat));
                    }
                    walk.walked = next;
                }
                FileType::Symlink => {
                    let target = readlinkat(&file, "", Vec::new())?;
                    walk.follow(Path::new(OsStr::from_bytes(target.as_bytes())))?;
                }
                _ => break,
            }
        }
        Ok(found)
    }
}

/// A walk to a path, one component after the other.
struct Walk {
    /// The components that are left.
    left: VecDeque<OsString>,
    /// What was walked already: no symbolic links and no "..".
    walked: PathBuf,
    /// The number of symbolic links that were followed.
    links: usize,
}

impl Walk {
    fn to(path: &Path) -> Self {
        Self { left: components(path), walked: PathBuf::from("/"), links: 0 }
    }

    /// Returns the next name in the directory that was walked to.
    fn next(&mut self) -> Option<OsString> {
        loop {
            let name = self.left.pop_front()?;
            if name != ".." {
                return Some(name);
            }
            self.walked.pop();
        }
    }

    /// Goes on along a symbolic link of the directory that was walked to.
    fn follow(&mut self, target: &Path) -> rustix::io::Result<()> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::LOOP);
        }
        if target.is_absolute() {
            self.walked = PathBuf::from("/");
        }
        for part in components(target).into_iter().rev() {
            self.left.push_front(part);
        }
        Ok(())
    }
}

/// Makes a file or a directory, unless there is something; returns the target if that is a symbolic link.
fn make_one(directory: &OwnedFd, name: &OsStr, kind: FileType) -> rustix::io::Result<Option<PathBuf>> {
    let made = if kind == FileType::Directory {
        mkdirat(directory, name, DIRECTORY_MODE)
    } else {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(directory, name, flags, Mode::from_raw_mode(0o644)).map(drop)
    };
    match made {
        Ok(()) => {
            belongs_to_root(directory, name)?;
            Ok(None)
        }
        // Not all file systems check in the same order.
        Err(error) => match readlinkat(directory, name, Vec::new()) {
            Ok(target) => Ok(Some(OsString::from_vec(target.into_bytes()).into())),
            Err(Errno::INVAL) => Ok(None),
            Err(_) => Err(error),
        },
    }
}

/// Gives something new in a directory of the container's root user to that user, as if the image had it. In a directory of others, such
/// as one of the node's, it stays its maker's.
fn belongs_to_root(directory: &OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
    if fstat(directory)?.st_uid != Uid::ROOT.as_raw() {
        return Ok(());
    }
    match chownat(directory, name, Some(Uid::ROOT), Some(Gid::ROOT), AtFlags::SYMLINK_NOFOLLOW) {
        // The namespace has no such id, or not the privilege to use it.
        Ok(()) | Err(Errno::INVAL | Errno::PERM) => Ok(()),
        Err(error) => Err(error),
    }
}

fn components(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.collect()
}

fn inside(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new("/") } else { path }
}

fn is(file: &OwnedFd, kind: FileType) -> rustix::io::Result<bool> {
    Ok(FileType::from_raw_mode(fstat(file)?.st_mode) == kind)
}

/// A directory must be one; a file may be anything else.
fn check_kind(found: OwnedFd, kind: FileType) -> rustix::io::Result<OwnedFd> {
    match (is(&found, FileType::Directory)?, kind == FileType::Directory) {
        (true, false) => Err(Errno::ISDIR),
        (false, true) => Err(Errno::NOTDIR),
        _ => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    /// A root directory beside a directory of the node's.
    struct Place {
        above: tempfile::TempDir,
        root: Root,
    }

    impl Place {
        fn new() -> Self {
            let above = tempfile::tempdir().unwrap();
            fs::create_dir(above.path().join("root")).unwrap();
            let root = Root::open(&above.path().join("root")).unwrap();
            Self { above, root }
        }

        fn path(&self, path: &str) -> PathBuf {
            self.above.path().join("root").join(path)
        }

        /// Makes a mount point; returns where it is, without symbolic links.
        fn made(&self, path: &str) -> String {
            let point = self.root.mount_point(Path::new(path), true).unwrap();
            let wanted = fstat(&point).unwrap().st_ino;
            let mut all = vec![self.path("")];
            while let Some(directory) = all.pop() {
                if fs::symlink_metadata(&directory).unwrap().ino() == wanted {
                    return directory.strip_prefix(self.path("")).unwrap().display().to_string();
                }
                let entries = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
                all.extend(entries.filter(|path| path.is_dir() && !path.is_symlink()));
            }
            panic!("{path} is outside of the root")
        }
    }

    #[test]
    fn a_mount_point_that_is_missing_appears() {
        let place = Place::new();
        assert_eq!(place.made("/a/b/c"), "a/b/c");
        assert_eq!(place.made("/a/b/c"), "a/b/c");
        let file = place.root.mount_point(Path::new("/a/file"), false).unwrap();
        assert!(is(&file, FileType::RegularFile).unwrap());
        assert!(place.root.mount_point(Path::new("/a/file"), true).is_err());
        assert!(place.root.mount_point(Path::new("/a/file/below"), true).is_err());
        assert!(place.root.mount_point(Path::new("/a"), false).is_err());
    }

    #[test]
    fn links_of_the_image_stay_inside_the_root() {
        let place = Place::new();
        let outside = place.above.path().join("outside");
        fs::create_dir(&outside).unwrap();
        symlink("../../../../../outside", place.path("up")).unwrap();
        symlink(&outside, place.path("absolute")).unwrap();
        symlink("/run", place.path("dangling")).unwrap();
        symlink("dangling/../sub", place.path("round")).unwrap();
        assert_eq!(place.made("/up/x"), "outside/x");
        assert!(place.made("/absolute").ends_with("/outside"));
        assert_eq!(place.made("/dangling/lock"), "run/lock");
        assert_eq!(place.made("/round/y"), "sub/y");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn the_directories_on_the_way_have_no_links() {
        let place = Place::new();
        fs::create_dir_all(place.path("usr/lib/deep")).unwrap();
        fs::write(place.path("usr/file"), "").unwrap();
        symlink("usr/lib", place.path("lib")).unwrap();
        symlink("/usr/../usr", place.path("round")).unwrap();
        let names = |path: &str| -> Vec<String> {
            let found = place.root.directories(Path::new(path)).unwrap();
            found.iter().map(|(path, _)| path.display().to_string()).collect()
        };
        assert_eq!(names("/lib/deep/missing/x"), ["/", "/usr", "/usr/lib", "/usr/lib/deep"]);
        assert_eq!(names("/round/file/x"), ["/", "/usr"]);
        assert_eq!(names("/"), ["/"]);
        symlink("self", place.path("self")).unwrap();
        assert!(place.root.directories(Path::new("/self/x")).is_err());
    }

    #[test]
    fn links_without_an_end_are_an_error() {
        let place = Place::new();
        symlink("b", place.path("a")).unwrap();
        symlink("a", place.path("b")).unwrap();
        assert!(place.root.mount_point(Path::new("/a/x"), true).is_err());
        assert!(place.root.read(Path::new("/a"), 10).unwrap().is_none());
    }

    #[test]
    fn a_file_takes_the_place_of_a_link_and_not_of_its_target() {
        let place = Place::new();
        fs::create_dir(place.path("etc")).unwrap();
        fs::write(place.path("etc/target"), "kept").unwrap();
        symlink("target", place.path("etc/hosts")).unwrap();
        place.root.replace(Path::new("/etc/hosts"), b"new").unwrap();
        assert_eq!(fs::read_to_string(place.path("etc/target")).unwrap(), "kept");
        assert_eq!(place.root.read(Path::new("/etc/hosts"), 10).unwrap().as_deref(), Some(&b"new"[..]));
        place.root.replace(Path::new("/new/file"), b"x").unwrap();
        assert_eq!(fs::metadata(place.path("new/file")).unwrap().mode() & 0o777, 0o644);
        assert!(place.root.replace(Path::new("/etc"), b"x").is_err());
    }

    #[test]
    fn only_regular_files_of_a_usual_length_are_read() {
        let place = Place::new();
        rustix::fs::mkfifoat(rustix::fs::CWD, place.path("fifo"), Mode::from_raw_mode(0o600)).unwrap();
        fs::write(place.path("long"), "12345").unwrap();
        let read = |path: &str, limit| place.root.read(Path::new(path), limit);
        assert!(read("/fifo", 9).unwrap().is_none() && read("/", 9).unwrap().is_none());
        assert!(read("/missing/file", 9).unwrap().is_none());
        assert!(read("/long", 4).is_err());
        assert_eq!(read("/long", 5).unwrap().as_deref(), Some(&b"12345"[..]));
    }
}
