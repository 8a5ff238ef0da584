//! File systems served by programs over `/dev/fuse`, mounted by this program and not by them.
//!
//! The mount is a descriptor that is attached nowhere until it is needed, and the program gets its end of the connection as
//! `/dev/fd/N` in place of a mount point (libfuse 3.3). If this program is killed meanwhile, the descriptor goes, the
//! mount with it, and the program that serves it ends. Nothing has to be waited for by watching mounts: a request waits in the
//! kernel until it is served, or fails when the program ends.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use parallax_sys::process::Process;
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create, open};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};
use rustix::process::{getegid, geteuid};

/// How long a program may take to begin.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much of what a program said is repeated.
const SAID_BYTES: usize = 2048;

/// Why a program serves no file system.
#[derive(Debug, thiserror::Error)]
pub enum FuseError {
    /// The kernel gives no connection.
    #[error("no FUSE mount can be made ({0}): /dev/fuse must be there and open to the user")]
    Mount(#[source] io::Error),
    /// None of the programs is there.
    #[error("{0} is not installed, or not on the PATH that Podman was started with")]
    NotInstalled(String),
    /// It could not be started.
    #[error("{program} can't be started: {source}")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
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
    #[error("{program} did not begin within {} s and was ended", PATIENCE.as_secs())]
    Hangs {
        /// The program.
        program: String,
    },
}

/// How the mount of a program's file system is made.
#[derive(Debug, Clone, Copy)]
pub struct MountOptions {
    /// What `/proc/self/mountinfo` shows behind `fuse.`.
    pub subtype: &'static str,
    /// The kernel's flags of FUSE.
    pub flags: &'static [&'static str],
    /// The attributes of the mount.
    pub attributes: MountAttrFlags,
}

/// A program that was started to serve a file system.
#[derive(Debug)]
pub struct Starting {
    program: String,
    process: Child,
    said: File,
    mount: OwnedFd,
}

/// A file system that is served; dropping it before it is attached takes it down.
#[derive(Debug)]
pub struct Served(OwnedFd);

impl AsFd for Served {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Starts the first of `programs` that is there, with `arguments` and `/dev/fd/N`.
pub fn start(programs: &[OsString], arguments: &[OsString], options: MountOptions) -> Result<Starting, FuseError> {
    for program in programs {
        let (connection, mount) = mount(options).map_err(FuseError::Mount)?;
        let name = program.to_string_lossy().into_owned();
        match spawn(program, arguments, &connection) {
            Ok((process, said)) => return Ok(Starting { program: name, process, said, mount }),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => return Err(FuseError::Start { program: name, source }),
        }
    }
    let names: Vec<_> = programs.iter().map(|program| program.to_string_lossy()).collect();
    Err(FuseError::NotInstalled(names.join(" or ")))
}

/// A connection and the mount that requests on it are for.
fn mount(options: MountOptions) -> io::Result<(OwnedFd, OwnedFd)> {
    let connection = open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
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
    fsconfig_create(&context)?;
    Ok((connection, fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, options.attributes)?))
}

/// Starts a program. It says what it has to say into a file in memory: a pipe would be held open for as long as it serves.
fn spawn(program: &OsStr, arguments: &[OsString], connection: &OwnedFd) -> io::Result<(Child, File)> {
    let said = File::from(memfd_create("said", MemfdFlags::CLOEXEC)?);
    // Only this child may inherit it: a connection ends when the last process that has it does.
    fcntl_setfd(connection, FdFlags::empty())?;
    let child = Command::new(program)
        .args(arguments)
        .arg(format!("/dev/fd/{}", connection.as_raw_fd()))
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said.try_clone()?)
        .spawn();
    fcntl_setfd(connection, FdFlags::CLOEXEC)?;
    Ok((child?, said))
}

impl Starting {
    /// Waits until the program serves: it goes to the background then.
    pub fn wait(mut self) -> Result<Served, FuseError> {
        let program = self.program;
        let start = |source| FuseError::Start { program: program.clone(), source };
        let process = Process::open(i32::try_from(self.process.id()).unwrap_or_default()).map_err(start)?;
        if !process.wait_until_ended(PATIENCE).map_err(start)? {
            process.kill().map_err(start)?;
            self.process.wait().map_err(start)?;
            return Err(FuseError::Hangs { program });
        }
        let status = self.process.wait().map_err(start)?;
        if status.success() {
            return Ok(Served(self.mount));
        }
        let mut buffer = [0; SAID_BYTES];
        let length = self.said.read_at(&mut buffer, 0).unwrap_or_default();
        let said = String::from_utf8_lossy(&buffer[..length]).split_whitespace().collect::<Vec<_>>().join(" ");
        Err(FuseError::Failed { program, said: if said.is_empty() { status.to_string() } else { said } })
    }
}
