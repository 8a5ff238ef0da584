//! The daemon: its socket, and a thread for each connection.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use parallax_config::Config;
use parallax_lazy_file::message::Channel;
use parallax_sys::activation::{self, Passed};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::sockopt::{socket_acceptconn, socket_peercred};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with};
use sd_notify::NotifyState;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::ahead::Ahead;
use crate::args::Args;
use crate::cache::bounded::Cache;
use crate::configured;
use crate::connection::{self, Node};
use crate::handover::Handovers;
use crate::queue::Queue;
use crate::single;

/// Maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Serves layers until a signal ends the process, which harms no reader: the agent has another process serve on. With an index, one layer is
/// served until it is used by nothing any more.
///
/// # Errors
/// The configuration, the cache or the socket cannot be used.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let filter: EnvFilter = args.log.parse().context("--log")?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false);
    lines.log_internal_errors(false).finish().try_init()?;
    if let (Some(index), Some(chunk_store)) = (&args.index, &args.chunk_store) {
        return single::serve(&args.config, index, chunk_store).inspect_err(|error| {
            // Whoever starts it reads this, wherever the log is.
            let _ = writeln!(io::stdout(), "{error:#}");
        });
    }
    let sockets = activation::take_passed().context("cannot use the sockets that systemd opened")?;
    let config = Config::load(&args.config)?.lazy;
    let socket =
        socket(sockets, &config.socket).with_context(|| format!("cannot listen on {}", config.socket.display()))?;
    let cache = Cache::open(&config.cache, u64::from(config.cache_size) << 20)?;
    let sources = configured::sources(&config);
    if let Err(error) = &sources {
        tracing::error!("no layer is served: {error}");
    }
    let queue = Arc::new(Queue::new(cache));
    let ahead = Ahead::start().context("cannot start a thread")?;
    let node = Arc::new(Node {
        queue,
        ahead,
        sources,
        timeout: Duration::from_secs(config.timeout.into()),
        layers: Handovers::default(),
        beside: Mutex::default(),
    });
    tracing::info!(socket = %config.socket.display(), cache = %config.cache.display(), "ready");
    notify(&[NotifyState::Ready]);
    // Twice as often as needed, as sd_watchdog_enabled(3) advises.
    let watchdog = sd_notify::watchdog_enabled().map(|interval| interval / 2);
    loop {
        if is_ready(&socket, watchdog)? {
            let node = Arc::clone(&node);
            match accept(&socket) {
                Ok(channel) => {
                    let connection = thread::Builder::new().name("connection".to_owned());
                    connection.spawn(move || connection::serve(channel, &node))?;
                }
                Err(error) => tracing::warn!("connection refused: {error}"),
            }
        }
        if watchdog.is_some() {
            notify(&[NotifyState::Watchdog]);
        }
    }
}

/// The socket that systemd opened, or a new one that only this process's user and root can connect to.
fn socket(opened: Vec<Passed>, path: &Path) -> anyhow::Result<OwnedFd> {
    match <[Passed; 1]>::try_from(opened) {
        Ok([Passed { descriptor: socket, .. }]) => {
            anyhow::ensure!(socket_acceptconn(&socket)?, "the socket that systemd opened does not listen");
            Ok(socket)
        }
        Err(none) if none.is_empty() => {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
            let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
            let before = rustix::process::umask(Mode::from_raw_mode(0o177));
            let bound = bind(&socket, &SocketAddrUnix::new(path)?);
            rustix::process::umask(before);
            bound?;
            listen(&socket, BACKLOG)?;
            Ok(socket)
        }
        Err(_) => anyhow::bail!("systemd opened more than one socket"),
    }
}

/// Waits for a connection, at most for `timeout`.
fn is_ready(socket: &OwnedFd, timeout: Option<Duration>) -> io::Result<bool> {
    let timeout = timeout.map(|timeout| Timespec::try_from(timeout).unwrap_or_default());
    match poll(&mut [PollFd::new(socket, PollFlags::IN)], timeout.as_ref()) {
        Err(Errno::INTR) => Ok(false),
        ready => Ok(ready? > 0),
    }
}

/// Accepts a connection of root, or of this process's own user.
fn accept(socket: &OwnedFd) -> io::Result<Channel> {
    let connection = accept_with(socket, SocketFlags::CLOEXEC)?;
    let peer = socket_peercred(&connection)?.uid;
    if !peer.is_root() && peer != rustix::process::geteuid() {
        return Err(io::Error::other(format!("it is the user {}'s", peer.as_raw())));
    }
    Channel::accepted(connection)
}

/// Notifies systemd; does nothing without systemd.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot notify systemd: {error}");
    }
}
