//! A file system without locks: a directory served once more, by FUSE, which answers every lock as such file systems do.
//!
//! The kernel keeps locks of a FUSE file system to itself unless its server says that it takes them; this one does, and refuses
//! each: NFS without lockd answers `ENOLCK`, Lustre without flock `ENOSYS`, others `EOPNOTSUPP`.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use fuser::{Config, Errno, FileAttr, FileHandle, INodeNo, MountOption, OpenFlags, SessionACL, TimeOrNow};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Timestamps, Uid, chmodat, chownat, fstat, openat, utimensat,
};

use attributes::{attributes, timestamp};

mod answers;
mod attributes;

/// Serves `directory` at `mount_point` until it is unmounted; says `mounted` when it is there. `errno` is what locks are answered: `ENOLCK`, `ENOSYS` or
/// `EOPNOTSUPP`. With `quota` that many bytes can be written, and no more, whatever is removed. Each read takes `latency` at least, one after
/// the other.
///
/// # Errors
/// It cannot be mounted, or `errno` is none of these.
pub fn serve(
    directory: &Path,
    mount_point: &Path,
    errno: &str,
    quota: Option<u64>,
    latency: Duration,
) -> anyhow::Result<()> {
    let refusal = match errno {
        "ENOLCK" => Errno::ENOLCK,
        "ENOSYS" => Errno::ENOSYS,
        "EOPNOTSUPP" => Errno::EOPNOTSUPP,
        other => anyhow::bail!("{other} is no answer to a lock"),
    };
    let root = openat(CWD, directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("{} cannot be opened", directory.display()))?;
    let nodes = HashMap::from([(INodeNo::ROOT, Node { fd: root, lookups: u64::MAX })]);
    let quota = AtomicU64::new(quota.unwrap_or(u64::MAX));
    let served = WithoutLocks { refusal, quota, latency, nodes: Mutex::new(nodes), files: Mutex::default() };
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("without-locks".to_owned()), MountOption::DefaultPermissions];
    config.acl = SessionACL::All;
    let mounted = fuser::Session::new(served, mount_point, &config)
        .with_context(|| format!("{} cannot be mounted on", mount_point.display()))?;
    println!("mounted");
    Ok(mounted.run()?)
}

/// A file that the kernel knows, and how often it was told of it. It is held open, so its number is not used again.
#[derive(Debug)]
struct Node {
    fd: OwnedFd,
    lookups: u64,
}

#[derive(Debug)]
struct WithoutLocks {
    refusal: Errno,
    /// How many bytes can still be written.
    quota: AtomicU64,
    /// How long each read takes at least.
    latency: Duration,
    nodes: Mutex<HashMap<INodeNo, Node>>,
    files: Mutex<(u64, HashMap<u64, File>)>,
}

impl WithoutLocks {
    fn nodes(&self) -> MutexGuard<'_, HashMap<INodeNo, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A path by which a known file is reached, wherever it is by now.
    fn path(&self, ino: INodeNo) -> io::Result<String> {
        let nodes = self.nodes();
        let node = nodes.get(&ino).ok_or(io::ErrorKind::NotFound)?;
        Ok(format!("/proc/self/fd/{}", node.fd.as_raw_fd()))
    }

    fn directory(&self, ino: INodeNo) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(openat(CWD, self.path(ino)?, flags, Mode::empty())?)
    }

    /// What is known of a file under its name; the kernel is told of it.
    fn find(&self, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(self.directory(parent)?, name, flags, Mode::empty())?;
        let attributes = attributes(&fstat(&fd)?);
        self.nodes().entry(attributes.ino).or_insert(Node { fd, lookups: 0 }).lookups += 1;
        Ok(attributes)
    }

    fn stat(&self, ino: INodeNo) -> io::Result<FileAttr> {
        let nodes = self.nodes();
        let stat = fstat(&nodes.get(&ino).ok_or(io::ErrorKind::NotFound)?.fd)?;
        Ok(FileAttr { ino, ..attributes(&stat) })
    }

    fn open_file(&self, ino: INodeNo, flags: OpenFlags) -> io::Result<FileHandle> {
        let flags = OFlags::from_bits_retain(u32::try_from(flags.0).unwrap_or_default())
            .difference(OFlags::NOFOLLOW | OFlags::CREATE | OFlags::EXCL | OFlags::APPEND | OFlags::DIRECT);
        let file = openat(CWD, self.path(ino)?, flags | OFlags::CLOEXEC, Mode::empty())?;
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.0 += 1;
        let handle = files.0;
        files.1.insert(handle, file.into());
        Ok(FileHandle(handle))
    }

    fn with_file<T>(&self, handle: FileHandle, act: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        act(files.1.get(&handle.0).ok_or(io::ErrorKind::InvalidInput)?)
    }

    /// Takes bytes that are to be written out of the quota.
    fn charge(&self, bytes: usize) -> io::Result<()> {
        let take = |left: u64| left.checked_sub(bytes as u64);
        match self.quota.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take) {
            Ok(_) => Ok(()),
            Err(_) => Err(rustix::io::Errno::DQUOT.into()),
        }
    }

    fn change(&self, ino: INodeNo, change: &Change) -> io::Result<FileAttr> {
        let path = self.path(ino)?;
        if let Some(mode) = change.mode {
            chmodat(CWD, &path, Mode::from_raw_mode(mode), AtFlags::empty())?;
        }
        if change.uid.is_some() || change.gid.is_some() {
            chownat(CWD, &path, change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw), AtFlags::empty())?;
        }
        if let Some(size) = change.size {
            File::options().write(true).open(&path)?.set_len(size)?;
        }
        let times = Timestamps { last_access: timestamp(change.atime), last_modification: timestamp(change.mtime) };
        utimensat(CWD, &path, &times, AtFlags::empty())?;
        self.stat(ino)
    }

    fn entries(&self, ino: INodeNo) -> io::Result<Vec<(INodeNo, FileType, Vec<u8>)>> {
        let directory = self.directory(ino)?;
        Dir::read_from(&directory)?
            .map(|entry| {
                let entry = entry?;
                Ok((INodeNo(entry.ino()), entry.file_type(), entry.file_name().to_bytes().to_vec()))
            })
            .collect()
    }
}

/// What is to be changed of a file.
struct Change {
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    atime: Option<TimeOrNow>,
    mtime: Option<TimeOrNow>,
}
