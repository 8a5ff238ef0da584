//! The helper: a process of the agent that does what the agent's own restrictions rule out.
//!
//! Looking a user up runs third-party code: the modules of `nsswitch.conf(5)` open sockets of any family, start threads,
//! set timers, and hang where their server does. Trying what the node can do ([`parallax_probe`]) starts programs. The agent
//! filters its own system calls and so can do neither. The helper is started before the agent restricts itself. It answers
//! six questions (`query`) and nothing else: no request names a program, a path or an argument of one.
//!
//! Each question is answered by a process of its own (`serve`) with a time limit, so that a module that hangs holds one process
//! for a while and no thread of the agent.

mod answer;
mod cache;
mod client;
mod query;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

pub use self::client::{Helper, HelperError, Pending};
use self::query::{HELP, NAME};
pub use self::query::{LOOK_UP_TIMEOUT, User};

/// Runs the helper, if this process was started as one, and returns its exit code. To be called first in `main`, while the process has
/// one thread.
#[must_use]
pub fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()?.to_str()? != HELP {
        return None;
    }
    let config = PathBuf::from(arguments.next()?);
    Some(match serve::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{NAME}: {error}");
            ExitCode::FAILURE
        }
    })
}
