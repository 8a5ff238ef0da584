//! A file system without locks: a directory served once more, by FUSE, which answers every lock as such file systems do.
//!
//! The kernel keeps locks of a FUSE file system to itself unless its server says that it takes them; this one does, and refuses
//! each: NFS without lockd answers `ENOLCK`, Lustre without flock `ENOSYS`, others `EOPNOTSUPP`.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyLock, ReplyOpen, ReplyWrite, Request, SessionACL, TimeOrNow, WriteFlags,
};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chmodat, chownat, fstat, linkat,
    mkdirat, openat, readlinkat, renameat_with, symlinkat, unlinkat, utimensat,
};

/// The kernel asks each time: others may change the directory.
const FRESH: Duration = Duration::ZERO;

/// Serves `directory` at `mount_point` until it is unmounted; says `mounted` when it is there. `errno` is what locks are answered: `ENOLCK`, `ENOSYS` or
/// `EOPNOTSUPP`.
///
/// # Errors
/// It cannot be mounted, or `errno` is none of these.
pub fn serve(directory: &Path, mount_point: &Path, errno: &str) -> anyhow::Result<()> {
    let refusal = match errno {
        "ENOLCK" => Errno::ENOLCK,
        "ENOSYS" => Errno::ENOSYS,
        "EOPNOTSUPP" => Errno::EOPNOTSUPP,
        other => anyhow::bail!("{other} is no answer to a lock"),
    };
    let root = openat(CWD, directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("{} cannot be opened", directory.display()))?;
    let nodes = HashMap::from([(INodeNo::ROOT, Node { fd: root, lookups: u64::MAX })]);
    let served = WithoutLocks { refusal, nodes: Mutex::new(nodes), files: Mutex::default() };
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
            .difference(OFlags::NOFOLLOW | OFlags::CREATE | OFlags::EXCL | OFlags::APPEND);
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

fn timestamp(time: Option<TimeOrNow>) -> Timespec {
    /// `UTIME_NOW` and `UTIME_OMIT` of utimensat(2).
    const NOW: i64 = (1 << 30) - 1;
    const OMIT: i64 = (1 << 30) - 2;
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: OMIT },
        Some(TimeOrNow::Now) => Timespec { tv_sec: 0, tv_nsec: NOW },
        Some(TimeOrNow::SpecificTime(time)) => {
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            Timespec { tv_sec: i64::try_from(since.as_secs()).unwrap_or(0), tv_nsec: i64::from(since.subsec_nanos()) }
        }
    }
}

fn kind(of: FileType) -> fuser::FileType {
    match of {
        FileType::Directory => fuser::FileType::Directory,
        FileType::Symlink => fuser::FileType::Symlink,
        FileType::Fifo => fuser::FileType::NamedPipe,
        FileType::Socket => fuser::FileType::Socket,
        FileType::CharacterDevice => fuser::FileType::CharDevice,
        FileType::BlockDevice => fuser::FileType::BlockDevice,
        _ => fuser::FileType::RegularFile,
    }
}

fn attributes(stat: &Stat) -> FileAttr {
    let time = |seconds: i64, nanoseconds: u64| {
        let nanoseconds = u32::try_from(nanoseconds).unwrap_or(0);
        SystemTime::UNIX_EPOCH + Duration::new(u64::try_from(seconds).unwrap_or(0), nanoseconds)
    };
    FileAttr {
        ino: INodeNo(stat.st_ino),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        crtime: SystemTime::UNIX_EPOCH,
        kind: kind(FileType::from_raw_mode(stat.st_mode)),
        perm: u16::try_from(stat.st_mode & 0o7777).unwrap_or(0),
        nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// Answers a request that makes an entry, or looks for one.
fn entry(found: io::Result<FileAttr>, reply: ReplyEntry) {
    match found {
        Ok(attributes) => reply.entry(&FRESH, &attributes, Generation(0)),
        Err(error) => reply.error(error.into()),
    }
}

fn done(result: io::Result<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error.into()),
    }
}

impl Filesystem for WithoutLocks {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        config
            .add_capabilities(InitFlags::FUSE_POSIX_LOCKS | InitFlags::FUSE_FLOCK_LOCKS)
            .map_err(|_| io::Error::other("the kernel keeps locks to itself"))
    }

    fn getlk(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        _: u64,
        _: u64,
        _: i32,
        _: u32,
        reply: ReplyLock,
    ) {
        reply.error(self.refusal);
    }

    fn setlk(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        _: u64,
        _: u64,
        _: i32,
        _: u32,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.error(self.refusal);
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(self.find(parent, name), reply);
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        let mut nodes = self.nodes();
        if let Some(node) = nodes.get_mut(&ino).filter(|_| ino != INodeNo::ROOT) {
            node.lookups = node.lookups.saturating_sub(count);
            if node.lookups == 0 {
                nodes.remove(&ino);
            }
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.stat(ino) {
            Ok(attributes) => reply.attr(&FRESH, &attributes),
            Err(error) => reply.error(error.into()),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match self.change(ino, &Change { mode, uid, gid, size, atime, mtime }) {
            Ok(attributes) => reply.attr(&FRESH, &attributes),
            Err(error) => reply.error(error.into()),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let nodes = self.nodes();
        match nodes.get(&ino).map(|node| readlinkat(&node.fd, "", Vec::new())) {
            Some(Ok(target)) => reply.data(target.as_bytes()),
            Some(Err(error)) => reply.error(io::Error::from(error).into()),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let make = || Ok(mkdirat(self.directory(parent)?, name, Mode::from_raw_mode(mode & !umask))?);
        entry(make().and_then(|()| self.find(parent, name)), reply);
    }

    fn symlink(&self, _: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let make = || Ok(symlinkat(target, self.directory(parent)?, name)?);
        entry(make().and_then(|()| self.find(parent, name)), reply);
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let make = || Ok(linkat(CWD, self.path(ino)?, self.directory(parent)?, name, AtFlags::SYMLINK_FOLLOW)?);
        entry(make().and_then(|()| self.find(parent, name)), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || Ok(unlinkat(self.directory(parent)?, name, AtFlags::empty())?);
        done(remove(), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || Ok(unlinkat(self.directory(parent)?, name, AtFlags::REMOVEDIR)?);
        done(remove(), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
        let rename = || Ok(renameat_with(self.directory(parent)?, name, self.directory(new_parent)?, new_name, flags)?);
        done(rename(), reply);
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.open_file(ino, flags) {
            Ok(handle) => reply.opened(handle, FopenFlags::empty()),
            Err(error) => reply.error(error.into()),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let make = || {
            let exclusive = OFlags::from_bits_retain(u32::try_from(flags).unwrap_or_default()) & OFlags::EXCL;
            let new = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | exclusive;
            openat(self.directory(parent)?, name, new, Mode::from_raw_mode(mode & !umask))?;
            let attributes = self.find(parent, name)?;
            Ok((self.open_file(attributes.ino, OpenFlags(flags))?, attributes))
        };
        match make() {
            Ok((handle, attributes)) => {
                reply.created(&FRESH, &attributes, Generation(0), handle, FopenFlags::empty());
            }
            Err(error) => reply.error(io::Error::into(error)),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut bytes = vec![0; size as usize];
        match self.with_file(handle, |file| file.read_at(&mut bytes, offset)) {
            Ok(read) => reply.data(&bytes[..read]),
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.with_file(handle, |file| file.write_all_at(data, offset)) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&handle.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        done(self.with_file(handle, File::sync_all), reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let sync = || Ok(rustix::fs::fsync(self.directory(ino)?)?);
        done(sync(), reply);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        match self.entries(ino) {
            Ok(entries) => {
                let rest = entries.into_iter().enumerate().skip(usize::try_from(offset).unwrap_or(usize::MAX));
                for (number, (ino, of, name)) in rest {
                    if reply.add(ino, number as u64 + 1, kind(of), OsStr::from_bytes(&name)) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error.into()),
        }
    }
}
