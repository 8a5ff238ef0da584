//! File systems served by programs over `/dev/fuse`, mounted by this program and not by them.
//!
//! The mount is a descriptor that is detached until it is needed, and the serving program gets its end of the connection as
//! `/dev/fd/N` instead of a mount point (libfuse 3.3). If this program is killed meanwhile, the descriptor is closed, the
//! mount is removed, and the serving program ends. No polling of mounts is needed: a request blocks in the
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

/// Maximum size of a program's output in bytes; the rest is lost.
const SAID_BYTES: u16 = 4096;

/// A root that is a directory.
pub(crate) const DIRECTORY: &str = "40000";

/// Error of starting a program that serves a file system.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FuseError {
    /// The kernel refuses a connection.
    #[error("no FUSE mount can be made ({0}): /dev/fuse must be there and open to the user")]
    Mount(io::Error),
    /// None of the programs exists.
    #[error("{0}")]
    NotInstalled(String),
    /// The program could not be started.
    #[error("{program} cannot be started: {cause}")]
    Start {
        /// The program, and the setting that configures it.
        program: String,
        /// What the system said.
        cause: io::Error,
    },
    /// The program failed.
    #[error("{program} failed: {said}")]
    Failed {
        /// The program.
        program: String,
        /// Its output, or its exit status.
        said: String,
    },
    /// The program neither serves nor ends.
    #[error("{program} did not start within {} s and was killed", timeout.as_secs())]
    Hangs {
        /// The program.
        program: String,
        /// The timeout.
        timeout: Duration,
    },
}

/// Parameters of the mount of a program's file system.
#[derive(Debug, Clone)]
pub(crate) struct MountOptions {
    /// The subtype that `/proc/self/mountinfo` shows after `fuse.`.
    pub subtype: &'static str,
    /// The type and the permissions of the root, in octal digits.
    pub root_mode: &'static str,
    /// The kernel's flags of FUSE.
    pub flags: &'static [&'static str],
    /// The attributes of the mount.
    pub attributes: MountAttrFlags,
    /// The SELinux context of all files, if any.
    pub context: Option<String>,
}

/// Parameters of the start of a program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program<'a> {
    /// Candidates; the first that exists is used.
    pub programs: &'a Programs,
    /// Its arguments; before the connection, if that is one.
    pub arguments: &'a [OsString],
    /// Its current directory; the program keeps that file system busy while it serves, unless it changes its directory.
    pub directory: &'a str,
    /// A socket on which its process is to listen.
    pub socket: Option<BorrowedFd<'a>>,
    /// Further descriptors that it gets under their numbers.
    pub inherited: &'a [BorrowedFd<'a>],
    /// How it gets the connection.
    pub connected: Connected<'a>,
}

/// How a program gets the connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Connected<'a> {
    /// As its last argument `/dev/fd/N`, N being the connection's number.
    Argument,
    /// As its standard input.
    Input {
        /// Where its standard error goes, if not to its output.
        errors: Option<BorrowedFd<'a>>,
    },
}

/// A program that was started to serve a file system.
#[derive(Debug)]
pub(crate) struct Server {
    program: String,
    child: Child,
    said: File,
}

/// A FUSE connection without a server.
pub(crate) fn connection() -> Result<OwnedFd, FuseError> {
    open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|error| FuseError::Mount(error.into()))
}

/// A detached mount of a connection. A connection may have several mounts (Linux 5.16); they all end
/// with the connection, and the connection ends with the last of them.
pub(crate) fn mount(connection: &OwnedFd, options: &MountOptions) -> io::Result<OwnedFd> {
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [
        ("source", options.subtype.to_owned()),
        ("subtype", options.subtype.to_owned()),
        ("fd", connection.as_raw_fd().to_string()),
        ("rootmode", options.root_mode.to_owned()),
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

/// Starts a program that serves a connection.
pub(crate) fn start(program: Program<'_>, connection: &OwnedFd) -> Result<Server, FuseError> {
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

/// Makes a file of fixed size in memory for the program's output: a pipe would stay open as long as the program
/// serves.
fn spawn(name: &OsStr, program: Program<'_>, connection: &OwnedFd) -> io::Result<(Child, File)> {
    let said = memfd_create("said", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&said, SAID_BYTES.into())?;
    fcntl_add_seals(&said, SealFlags::GROW)?;
    let said = File::from(said);
    let mut command = Command::new(name);
    command.args(program.arguments).current_dir(program.directory);
    let mut inherited = program.inherited.to_vec();
    match program.connected {
        Connected::Argument => {
            command.arg(format!("/dev/fd/{}", connection.as_raw_fd())).stdin(Stdio::null());
            command.stdout(said.try_clone()?).stderr(said.try_clone()?);
            inherited.push(connection.as_fd());
        }
        Connected::Input { errors: None } => {
            command.stdin(connection.try_clone()?).stdout(Stdio::null()).stderr(said.try_clone()?);
        }
        Connected::Input { errors: Some(errors) } => {
            command.stdin(connection.try_clone()?).stdout(said.try_clone()?).stderr(errors.try_clone_to_owned()?);
        }
    }
    Ok((spawn_server(&mut command, &inherited, program.socket)?, said))
}

impl Server {
    /// Waits until a program that daemonizes when it serves has done so.
    pub(crate) fn wait_for_background(mut self, timeout: Duration) -> Result<(), FuseError> {
        match self.end(timeout)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.failure(status)),
            None => Err(self.give_up(timeout)),
        }
    }

    /// Returns the program's error after its connection has ended; `None` if the program printed none.
    pub(crate) fn why_not(mut self, timeout: Duration) -> Option<FuseError> {
        match self.end(timeout) {
            Ok(Some(status)) if status.success() && self.words().is_empty() => None,
            Ok(Some(status)) => Some(self.failure(status)),
            Ok(None) => Some(self.give_up(timeout)),
            Err(error) => Some(error),
        }
    }

    /// Kills a program that has not started serving, and all processes that it started.
    pub(crate) fn give_up(mut self, timeout: Duration) -> FuseError {
        // It leads a process group of its own.
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
        FuseError::Hangs { program: self.program, timeout }
    }

    fn end(&mut self, timeout: Duration) -> Result<Option<ExitStatus>, FuseError> {
        let ended = Process::open(i32::try_from(self.child.id()).unwrap_or_default())
            .and_then(|process| process.wait_until_ended(timeout));
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
        let text = buffer.get(..length).and_then(|text| text.split(|byte| *byte == 0).next()).unwrap_or_default();
        String::from_utf8_lossy(text).split_whitespace().collect::<Vec<_>>().join(" ")
    }
}
