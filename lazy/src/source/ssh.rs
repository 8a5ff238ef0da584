//! A chunk store on another machine, by SSH: the system's `ssh`, and the server's subsystem `sftp`.
//!
//! casync's own way is a casync on the server, which needs a shell there. Each sshd has sftp, also for accounts that may do
//! nothing else (`ForceCommand internal-sftp`).

mod connection;
mod packet;
mod reason;

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use parallax_chunks::ChunkId;
use parallax_format::digest::Sha256;

use self::connection::{Connection, Failure, Timeouts};
use super::private;
use super::settings::SettingsError;
use super::{Source, SourceError};

/// The schemes of these chunk stores. Both mean the same.
pub(crate) const SCHEMES: [&str; 2] = ["ssh://", "sftp://"];
/// Number of connections by which a file is tried if they end.
const ATTEMPTS: u32 = 2;
/// Pause after a failed connection attempt; doubled after each further one.
const MIN_PAUSE: Duration = Duration::from_millis(500);
/// Longest such pause.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Timeouts of connections.
const TIMEOUTS: Timeouts = Timeouts { answer: Duration::from_secs(10), idle: Duration::from_secs(60) };

/// Settings of ssh that neither the site's `ssh_config` nor an account's can change: what is on the command line comes first.
const SSH_OPTIONS: [&str; 16] = [
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "NoHostAuthenticationForLocalhost=no",
    "VerifyHostKeyDNS=no",
    "UpdateHostKeys=no",
    "ConnectTimeout=8",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=2",
    "ControlMaster=no",
    "ControlPath=none",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "RequestTTY=no",
    "LogLevel=ERROR",
];

/// Settings of a source. Without one, those of the system's `ssh` apply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SshOptions {
    /// File with the host keys of servers.
    pub(crate) known_hosts: Option<PathBuf>,
    /// File with the private key.
    pub(crate) key: Option<PathBuf>,
}

/// A directory of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    user: Option<String>,
    host: String,
    port: Option<u16>,
    path: String,
}

/// The chunks of a directory of a server, such as `ssh://images@server/layers/default.castr`.
#[derive(Debug)]
pub(crate) struct SshSource {
    name: String,
    address: Address,
    options: SshOptions,
    program: OsString,
    timeouts: Timeouts,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<Arc<Connection>>,
    /// Until when the server is not asked again, and why.
    failure: Option<(Instant, SourceError)>,
    /// The pause after the last failure.
    pause: Duration,
}

impl SshSource {
    /// Returns the source. The server is not asked yet.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub(crate) fn new(url: &str, options: &SshOptions) -> Result<Self, SettingsError> {
        let address = Address::parse(url).ok_or_else(|| SettingsError::Ssh(url.to_owned()))?;
        let mut paths = [&options.known_hosts, &options.key].into_iter().flatten();
        if let Some(path) = paths.find(|path| !is_passed_unchanged(path)) {
            return Err(SettingsError::SshPath(path.clone()));
        }
        let source = Self {
            name: url.trim_end_matches('/').to_owned(),
            address,
            options: options.clone(),
            program: "ssh".into(),
            timeouts: TIMEOUTS,
            state: Mutex::default(),
        };
        source.check_key().map_err(SettingsError::Credentials)?;
        Ok(source)
    }

    /// Checks that not everybody can read the key.
    fn check_key(&self) -> Result<(), String> {
        let Some(key) = &self.options.key else { return Ok(()) };
        let read = private::read(key);
        read.map(drop).map_err(|reason| format!("cannot use the key in {}: {reason}", key.display()))
    }

    /// Returns the command that connects to the server.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().env("LC_ALL", "C");
        command.envs(env::var_os("PATH").map(|path| ("PATH", path)));
        command.args(SSH_OPTIONS.iter().flat_map(|option| ["-o", option]));
        if let Some(file) = &self.options.known_hosts {
            command.args(["-o", "GlobalKnownHostsFile=/dev/null", "-o"]);
            command.arg(format!("UserKnownHostsFile={}", file.display()));
        }
        if let Some(key) = &self.options.key {
            command.args(["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-i"]).arg(key);
        }
        let Address { user, host, port, .. } = &self.address;
        command.args(user.iter().flat_map(|user| ["-l", user]));
        command.args(port.iter().flat_map(|port| ["-p".to_owned(), port.to_string()]));
        command.args(["-s", "--", host, "sftp"]);
        command
    }

    fn connect(&self) -> Result<Connection, SourceError> {
        self.check_key().map_err(SourceError::Permanent)?;
        let host = self.address.host.clone();
        let known_hosts = match &self.options.known_hosts {
            Some(file) => file.display().to_string(),
            None => "/etc/ssh/ssh_known_hosts".to_owned(),
        };
        Connection::open(&mut self.command(), self.timeouts, move |messages| reason::of(messages, &host, &known_hosts))
    }

    /// Returns the connection, or makes one. After a failure the server is left alone for a while.
    fn connection(&self) -> Result<Arc<Connection>, SourceError> {
        // Others wait meanwhile: they need the same connection.
        let mut state = self.state();
        if let Some(connection) = state.connection.as_ref().filter(|connection| connection.is_open()) {
            return Ok(Arc::clone(connection));
        }
        if let Some((_, reason)) = state.failure.as_ref().filter(|(until, _)| Instant::now() < *until) {
            return Err(reason.clone());
        }
        match self.connect() {
            Ok(connection) => {
                let connection = Arc::new(connection);
                state.connection = Some(Arc::clone(&connection));
                state.failure = None;
                state.pause = Duration::ZERO;
                Ok(connection)
            }
            Err(reason) => {
                tracing::warn!(source = self.name, %reason, "no connection");
                state.fail(reason.clone());
                Err(reason)
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Has the server left alone for a while.
    fn fail(&mut self, reason: SourceError) {
        self.connection = None;
        self.pause = (self.pause * 2).clamp(MIN_PAUSE, MAX_PAUSE);
        // Nodes that failed together do not return together.
        self.failure = Some((Instant::now() + self.pause.mul_f64(fastrand::f64() + 0.5), reason));
    }
}

impl Source for SshSource {
    fn file(&self, _: &Sha256, id: &ChunkId, max: usize) -> Result<Vec<u8>, SourceError> {
        let path = format!("{}/{}", self.address.path, id.path());
        let mut attempt = 1;
        loop {
            match self.connection()?.read_file(&path, max) {
                Ok(content) => return Ok(content),
                Err(Failure::File(reason)) => return Err(reason),
                Err(Failure::Silent(reason)) => {
                    self.state().fail(reason.clone());
                    return Err(reason);
                }
                Err(Failure::Lost(reason)) if attempt == ATTEMPTS => return Err(reason),
                Err(Failure::Lost(reason)) => {
                    tracing::debug!(source = self.name, %reason, "connection lost");
                    attempt += 1;
                }
            }
        }
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Address {
    /// Parses `ssh://[USER@]HOST[:PORT]/PATH`.
    fn parse(url: &str) -> Option<Self> {
        let rest = SCHEMES.iter().find_map(|scheme| url.strip_prefix(scheme))?;
        let (server, path) = rest.split_once('/')?;
        let path = path.trim_end_matches('/');
        let (user, server) = match server.rsplit_once('@') {
            Some((user, server)) => (Some(user), server),
            None => (None, server),
        };
        let (host, port) = match server.strip_prefix('[') {
            Some(bracketed) => {
                let (host, rest) = bracketed.split_once(']')?;
                let is_address = host.bytes().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte));
                let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) };
                (Some(host).filter(|host| is_address && !host.is_empty())?, port)
            }
            None => {
                let (host, port) = server.split_once(':').map_or((server, None), |(host, port)| (host, Some(port)));
                (Some(host).filter(|host| is_name(host))?, port)
            }
        };
        let port = port.map(str::parse).transpose().ok()?.filter(|port| *port != 0);
        let is_good = is_path(path) && user.is_none_or(is_name);
        is_good.then(|| Self { user: user.map(str::to_owned), host: host.to_owned(), port, path: format!("/{path}") })
    }
}

/// Whether this can be the name of a user or a host, and never an option of ssh.
fn is_name(name: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && !name.starts_with('-') && name.bytes().all(is_good)
}

fn is_path(path: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~+=".contains(&byte);
    path.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && part.bytes().all(is_good))
}

/// Whether ssh takes a path in an option as it is.
fn is_passed_unchanged(path: &Path) -> bool {
    path.to_str().is_some_and(|path| !path.contains([' ', '\t', '"', '\'', '\\', '%']) && !path.contains("${"))
}

#[cfg(test)]
mod tests;
