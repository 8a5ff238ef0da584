//! File systems served by programs over `/dev/fuse`, mounted by this program and not by them.
//!
//! The mount is a descriptor that is attached nowhere until it is needed, and the program gets its end of the connection as
//! `/dev/fd/N` in place of a mount point (libfuse 3.3). If this program is killed meanwhile, the descriptor goes, the
//! mount with it, and the program that serves it ends. Nothing has to be waited for by watching mounts: a request waits in the
//! kernel until it is served, or fails when the program ends.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use parallax_sys::process::{Process, spawn_server};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create, open};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};
use rustix::process::{Pid, Signal, getegid, geteuid, kill_process_group};

use parallax_sys::fault;

use crate::programs::{Programs, is_missing};

/// How much a program may say; the rest is lost.
const SAID_BYTES: u16 = 4096;

/// Why a program serves no file system.
#[derive(Debug, thiserror::Error)]
pub enum FuseError {
    /// The kernel gives no connection.
    #[error("no FUSE mount can be made ({0}): /dev/fuse must be there and open to the user")]
    Mount(io::Error),
    /// None of the programs is there.
    #[error("{0}")]
    NotInstalled(String),
    /// It could not be started.
    #[error("{program} cannot be started: {cause}")]
    Start {
        /// The program, and the setting that names it.
        program: String,
        /// What the system said.
        cause: io::Error,
    },
    /// It refused.
    #[error("{program} failed: {said}")]
    Failed {
        /// The program.
        program: String,
        /// What it said, or how it ended.
        said: String,
    },
    /// It does nothing.
    #[error("{program} did not begin within {} s and was ended", patience.as_secs())]
    Hangs {
        /// The program.
        program: String,
        /// How long it was waited for.
        patience: Duration,
    },
}

/// How the mount of a program's file system is made.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// What `/proc/self/mountinfo` shows behind `fuse.`.
    pub subtype: &'static str,
    /// The kernel's flags of FUSE.
    pub flags: &'static [&'static str],
    /// The attributes of the mount.
    pub attributes: MountAttrFlags,
    /// The SELinux context of all files, if they are to have one.
    pub context: Option<String>,
}

/// How a program is started.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    /// The first of these that is there is taken.
    pub programs: &'a Programs,
    /// What comes before `/dev/fd/N`, N being the connection's number.
    pub arguments: &'a [OsString],
    /// Its current directory; it keeps that file system busy for as long as it serves, unless it leaves it.
    pub directory: &'a str,
    /// A socket that its process is to make a listening one.
    pub socket: Option<BorrowedFd<'a>>,
}

/// A program that was started to serve a file system.
#[derive(Debug)]
pub struct Server {
    program: String,
    child: Child,
    said: File,
}

/// A FUSE connection that nobody serves yet.
pub fn connection() -> Result<OwnedFd, FuseError> {
    open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|error| FuseError::Mount(error.into()))
}

/// A mount, attached nowhere, that requests on a connection are for. A connection may have several (Linux 5.16); its end
/// is the end of all of them, and the end of the last of them is its end.
pub fn mount(connection: &OwnedFd, options: &MountOptions) -> io::Result<OwnedFd> {
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [
        ("source", options.subtype.to_owned()),
        ("subtype", options.subtype.to_owned()),
        ("fd", connection.as_raw_fd().to_string()),
        ("rootmode", "40000".to_owned()),
        ("user_id", geteuid().as_raw().to_string()),
        ("group_id", getegid().as_raw().to_string()),
    ] {
        fsconfig_set_string(&context, key, value)?;
    }
    for flag in options.flags {
        fsconfig_set_flag(&context, *flag)?;
    }
    if let Some(label) = &options.context {
        fsconfig_set_string(&context, "context", label.as_str())?;
    }
    fault::point();
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, options.attributes)?)
}

/// Starts a program that is to serve a connection.
pub fn start(program: Program<'_>, connection: &OwnedFd) -> Result<Server, FuseError> {
    for candidate in &program.programs.names {
        let name = candidate.to_string_lossy().into_owned();
        fault::point();
        match spawn(candidate, program, connection) {
            Ok((child, said)) => return Ok(Server { program: name, child, said }),
            Err(error) if is_missing(candidate, &error) => {}
            Err(cause) => {
                return Err(FuseError::Start { program: name + &program.programs.origin(), cause });
            }
        }
    }
    Err(FuseError::NotInstalled(program.programs.missing()))
}

/// The program says what it has to say into a file in memory that can't grow: a pipe would be held open for as long as it
/// serves.
fn spawn(name: &OsStr, program: Program<'_>, connection: &OwnedFd) -> io::Result<(Child, File)> {
    let said = memfd_create("said", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&said, SAID_BYTES.into())?;
    fcntl_add_seals(&said, SealFlags::GROW)?;
    let said = File::from(said);
    let mut command = Command::new(name);
    command
        .args(program.arguments)
        .arg(format!("/dev/fd/{}", connection.as_raw_fd()))
        .current_dir(program.directory)
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said.try_clone()?);
    Ok((spawn_server(&mut command, &[connection.as_fd()], program.socket)?, said))
}

impl Server {
    /// Waits until a program that goes to the background when it serves does so.
    pub fn wait_for_background(mut self, patience: Duration) -> Result<(), FuseError> {
        match self.end(patience)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.failure(status)),
            None => Err(self.give_up(patience)),
        }
    }

    /// Why the program does not serve, now that its connection has ended; `None` if it has nothing to say for itself.
    pub fn why_not(mut self, patience: Duration) -> Option<FuseError> {
        match self.end(patience) {
            Ok(Some(status)) if status.success() && self.words().is_empty() => None,
            Ok(Some(status)) => Some(self.failure(status)),
            Ok(None) => Some(self.give_up(patience)),
            Err(error) => Some(error),
        }
    }

    /// Ends a program that has not begun, and all that it started.
    pub fn give_up(mut self, patience: Duration) -> FuseError {
        // It leads a process group of its own.
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
        FuseError::Hangs { program: self.program, patience }
    }

    fn end(&mut self, patience: Duration) -> Result<Option<ExitStatus>, FuseError> {
        let ended = Process::open(i32::try_from(self.child.id()).unwrap_or_default())
            .and_then(|process| process.wait_until_ended(patience));
        let status = ended.and_then(|ended| if ended { self.child.wait().map(Some) } else { Ok(None) });
        status.map_err(|cause| FuseError::Start { program: self.program.clone(), cause })
    }

    fn failure(self, status: ExitStatus) -> FuseError {
        let words = self.words();
        FuseError::Failed { program: self.program, said: if words.is_empty() { status.to_string() } else { words } }
    }

    fn words(&self) -> String {
        let mut buffer = [0; SAID_BYTES as usize];
        let length = self.said.read_at(&mut buffer, 0).unwrap_or_default();
        let text = buffer[..length].split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).split_whitespace().collect::<Vec<_>>().join(" ")
    }
}
