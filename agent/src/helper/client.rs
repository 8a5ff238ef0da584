//! The agent's side of the helper.

use std::fs::File;
use std::io::{self, IoSlice, Read as _};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use parallax_probe::Findings;
use parallax_probe::subordinate::Listed;
use parallax_protocol::accounts::Accounts;
use parallax_sys::process::Process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg, socketpair,
};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::de::DeserializeOwned;

use super::cache::Cache;
use super::query::{HELP, MAX_GROUPS, NAME, Query, User};

/// Maximum length of a reply in bytes. A user in 65,536 groups, the kernel's limit, needs less.
const MAX_REPLY: u64 = 1024 * 1024;

/// The answer that there is no such user, who may be added any moment.
const NOBODY: &[u8] = br#"{"Ok":null}"#;

/// An error of a question to the helper.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// The time limit was exceeded.
    #[error("{0} did not answer within {seconds} s", seconds = .1.as_secs())]
    Timeout(&'static str, Duration),
    /// The process that was to answer ended without an answer.
    #[error("the process that asked {0} ended without an answer")]
    NoAnswer(&'static str),
    /// The helper has ended.
    #[error("the agent's helper process has ended")]
    Ended,
    /// The question was answered by an error.
    #[error("{0} reports an error: {1}")]
    Failed(&'static str, String),
    /// A system call failed.
    #[error("the agent's helper process cannot be asked: {0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for HelperError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PIPE | Errno::CONNRESET => Self::Ended,
            other => Self::Io(other.into()),
        }
    }
}

/// The agent's side of the helper. The helper ends with this value, and with the agent.
#[derive(Debug)]
pub struct Helper {
    socket: OwnedFd,
    // Kept so that the helper is not reaped and its pid not reused.
    child: Child,
    process: Process,
    cache: Cache,
}

impl Helper {
    /// Starts the helper. It reads the mount program to try from the file `config` for each question.
    ///
    /// # Errors
    /// Those of `socketpair(2)` and of starting a process.
    pub fn start(config: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let mut command = Command::new("/proc/self/exe");
        // No variable of the agent's changes what is found.
        command.arg0(NAME).arg(HELP).arg(config).current_dir("/").env_clear().env("PATH", parallax_probe::PATH);
        let child = command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).spawn()?;
        let process = Process::open(i32::try_from(child.id()).unwrap_or_default())?;
        Ok(Self { socket, child, process, cache: Cache::default() })
    }

    /// Returns the user with an id; `None` if the database has no such user.
    ///
    /// # Errors
    /// [`HelperError`].
    pub fn user(&self, uid: u32) -> Result<Option<User>, HelperError> {
        self.ask(Query::UserById(uid))
    }

    /// Returns the user with a name; `None` if the database has no such user.
    ///
    /// # Errors
    /// [`HelperError`].
    pub fn user_named(&self, name: &str) -> Result<Option<User>, HelperError> {
        self.ask(Query::UserByName(name.to_owned()))
    }

    /// Returns the ids of all groups of a user, `gid` included.
    ///
    /// # Errors
    /// [`HelperError`].
    pub fn groups(&self, user: &str, gid: u32) -> Result<Vec<u32>, HelperError> {
        self.ask(Query::Groups { user: user.to_owned(), gid })
    }

    /// Begins to look up the names of a user and of groups, the primary one first.
    ///
    /// # Errors
    /// [`HelperError`].
    pub fn begin_accounts(&self, uid: u32, groups: &[u32]) -> Result<Pending<'_, Accounts>, HelperError> {
        let groups = groups.iter().take(MAX_GROUPS).copied().collect();
        self.begin(Query::Accounts { uid, groups })
    }

    /// Returns the subordinate ids of a user from the module that nsswitch.conf names; `None` if libsubid is not installed.
    ///
    /// # Errors
    /// [`HelperError`].
    pub fn subordinate_ids(&self, user: &str, uid: u32) -> Result<Option<Listed>, HelperError> {
        self.ask(Query::SubordinateIds { user: user.to_owned(), uid })
    }

    /// Tries what this node can do.
    ///
    /// # Errors
    /// [`HelperError`].
    pub fn probe(&self) -> Result<Findings, HelperError> {
        self.ask(Query::Probe)
    }

    fn ask<R: DeserializeOwned>(&self, query: Query) -> Result<R, HelperError> {
        self.begin(query)?.answer()
    }

    fn begin<R>(&self, query: Query) -> Result<Pending<'_, R>, HelperError> {
        let known = if query.may_be_remembered() { self.cache.get(&query, Instant::now()) } else { None };
        let deadline = Instant::now() + query.timeout();
        let reply = match known {
            Some(answer) => Reply::Known(answer),
            None => Reply::Awaited(self.send(&query, deadline)?),
        };
        Ok(Pending { helper: self, reply, query, deadline, kind: PhantomData })
    }

    /// Sends a question, and returns where the answer comes.
    fn send(&self, query: &Query, deadline: Instant) -> Result<OwnedFd, HelperError> {
        let (reply, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        self.send_with(query, theirs.as_fd(), deadline)?;
        // Its other copy is the helper's: the end of all processes that could answer is the end of the reply.
        Ok(reply)
    }

    /// Sends a question, and where the answer is to be written.
    fn send_with(&self, query: &Query, reply: BorrowedFd<'_>, deadline: Instant) -> Result<(), HelperError> {
        let message = serde_json::to_vec(query).map_err(io::Error::from)?;
        let descriptors = [reply];
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut rights = SendAncillaryBuffer::new(&mut space);
            rights.push(SendAncillaryMessage::ScmRights(&descriptors));
            match sendmsg(&self.socket, &[IoSlice::new(&message)], &mut rights, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if !ready(self.socket.as_fd(), PollFlags::OUT, deadline)? {
                        return Err(HelperError::Timeout(query.what(), query.timeout()));
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A question that was asked.
#[derive(Debug)]
pub struct Pending<'a, R> {
    helper: &'a Helper,
    reply: Reply,
    query: Query,
    deadline: Instant,
    kind: PhantomData<R>,
}

/// Where an answer is.
#[derive(Debug)]
enum Reply {
    /// It is remembered.
    Known(Vec<u8>),
    /// It comes through this pipe.
    Awaited(OwnedFd),
}

impl<R: DeserializeOwned> Pending<'_, R> {
    /// Waits for the answer.
    ///
    /// # Errors
    /// [`HelperError`].
    pub fn answer(self) -> Result<R, HelperError> {
        let Self { helper, reply, query, deadline, .. } = self;
        let what = query.what();
        let (text, is_new) = match reply {
            Reply::Known(text) => (text, false),
            Reply::Awaited(reply) => (awaited(reply, helper, &query, deadline)?, true),
        };
        let answer: Result<R, String> = serde_json::from_slice(&text).map_err(|_| HelperError::NoAnswer(what))?;
        let answer = answer.map_err(|reason| HelperError::Failed(what, reason))?;
        if is_new && query.may_be_remembered() && text != NOBODY {
            helper.cache.put(query, text, Instant::now());
        }
        Ok(answer)
    }
}

/// Reads an answer to its end.
fn awaited(reply: OwnedFd, helper: &Helper, query: &Query, deadline: Instant) -> Result<Vec<u8>, HelperError> {
    let mut reply = File::from(reply).take(MAX_REPLY);
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if !ready(reply.get_ref().as_fd(), PollFlags::IN, deadline)? {
            return Err(HelperError::Timeout(query.what(), query.timeout()));
        }
        match reply.read(&mut piece)? {
            0 => break,
            length => text.extend_from_slice(piece.get(..length).unwrap_or_default()),
        }
    }
    if !text.is_empty() {
        return Ok(text);
    }
    // The helper has its own clock on the answering process, and may have ended it before this thread was woken.
    if Instant::now() >= deadline {
        return Err(HelperError::Timeout(query.what(), query.timeout()));
    }
    let ended = helper.process.wait_until_ended(Duration::ZERO)?;
    Err(if ended { HelperError::Ended } else { HelperError::NoAnswer(query.what()) })
}

impl AsFd for Helper {
    /// A descriptor that is readable once the helper has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a descriptor; `false` if the deadline came first.
fn ready(descriptor: BorrowedFd<'_>, events: PollFlags, deadline: Instant) -> Result<bool, HelperError> {
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok();
        match poll(&mut [PollFd::new(&descriptor, events)], left.as_ref()) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
