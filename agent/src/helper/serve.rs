//! The helper's own process: takes questions, has each one answered by a process of its own, and bounds these in time and number.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use nix::sys::signal::{SigSet, Signal};
use parallax_sys::process::{Process, in_child};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Signal as DeathSignal, WaitOptions, set_parent_process_death_signal, waitpid};

use super::answer;
use super::query::{MAX_QUERY, NAME, Query};

/// Maximum number of questions that are answered at once; more wait on the socket. It is more than the agent's threads ask at once, so
/// that hanging questions delay no others, and a database that hangs keeps no more processes than this, each until
/// its time limit.
const MAX_RUNNING: usize = 320;

/// A process that answers a question.
struct Running {
    process: Process,
    /// The deadline, after which the process is killed; `None` once it was.
    deadline: Option<Instant>,
}

impl Running {
    /// Returns `true` if the process is gone. Kills it if its time is over.
    fn is_over(&mut self) -> bool {
        if self.process.wait_until_ended(std::time::Duration::ZERO).unwrap_or(false) {
            let _ = waitpid(Pid::from_raw(self.process.pid()), WaitOptions::NOHANG);
            return true;
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let _ = self.process.kill();
            self.deadline = None;
        }
        false
    }
}

/// A question, and where its answer is to be written.
type Asked = (Query, OwnedFd);

/// Answers questions that come on standard input, a socket, until its other side is closed.
///
/// # Errors
/// Those of `poll(2)` and `recvmsg(2)`.
pub(super) fn run(config: &Path) -> io::Result<()> {
    // Signals to the agent's process group or control group are the agent's business. The helper ends with it, however that ends.
    SigSet::from_iter([Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM]).thread_block()?;
    set_parent_process_death_signal(Some(DeathSignal::KILL))?;
    let _ = std::ffi::CString::new(NAME).map(|name| rustix::thread::set_name(&name));
    let stdin = io::stdin();
    let socket = stdin.as_fd();
    let mut running: Vec<Running> = Vec::new();
    loop {
        let has_question = wait(socket, &running)?;
        running.retain_mut(|process| !process.is_over());
        if !has_question {
            continue;
        }
        match receive(socket)? {
            Received::Closed => return Ok(()),
            Received::Nothing => {}
            Received::Question(asked) => running.extend(start(asked, config)),
        }
    }
}

/// Waits until something happens; returns whether there is a question, for which there is room.
fn wait(socket: BorrowedFd<'_>, running: &[Running]) -> io::Result<bool> {
    let due = running.iter().filter_map(|process| process.deadline).min();
    let timeout = due.and_then(|due| Timespec::try_from(due.saturating_duration_since(Instant::now())).ok());
    let mut events: Vec<PollFd<'_>> =
        running.iter().map(|process| PollFd::new(&process.process, PollFlags::IN)).collect();
    let has_room = running.len() < MAX_RUNNING;
    if has_room {
        events.push(PollFd::from_borrowed_fd(socket, PollFlags::IN));
    }
    match poll(&mut events, timeout.as_ref()) {
        Ok(_) => Ok(has_room && events.last().is_some_and(|event| !event.revents().is_empty())),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

enum Received {
    Closed,
    Nothing,
    Question(Asked),
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<Received> {
    let mut message = [0; MAX_QUERY];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut message)],
        &mut rights,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    );
    let length = match received {
        Ok(received) if received.bytes == 0 => return Ok(Received::Closed),
        Ok(received) => received.bytes,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(Received::Nothing),
        Err(error) => return Err(error.into()),
    };
    let reply = rights.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let query = message.get(..length).and_then(|bytes| serde_json::from_slice(bytes).ok());
    // Without an answer the reply ends, which is an answer, too.
    Ok(query.zip(reply).map_or(Received::Nothing, Received::Question))
}

/// Starts a process that answers; `None` if the asker has given up, or no process can be started.
fn start((query, reply): Asked, config: &Path) -> Option<Running> {
    let mut reader = [PollFd::new(&reply, PollFlags::empty())];
    let given_up = poll(&mut reader, Some(&Timespec::default())).is_ok_and(|ready| ready > 0);
    if given_up {
        return None;
    }
    let deadline = Some(Instant::now() + query.timeout());
    match in_child(|| answer::write(&query, reply, config)) {
        Ok(process) => Some(Running { process, deadline }),
        Err(error) => {
            eprintln!("{NAME}: cannot start a process: {error}");
            None
        }
    }
}
