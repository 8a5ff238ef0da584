//! The agent's life: its start, reload and stop, and what systemd is told of them.
//!
//! One thread waits for everything there is to wait for and never for anything else; what takes time is done by others
//! ([`crate::server`]). So it wakes up only when something happens, and a watchdog that is no longer told of it means that
//! something is wrong.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::Signal;
use parallax_config::Config;
use parallax_sys::{activation, allocator, denied};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;

use crate::args::Args;
use crate::backend::Backends;
use crate::helper::Helper;
use crate::lease::Leases;
use crate::metrics::{Metrics, write_file};
use crate::server::{Server, listen, signals};
use crate::{logging, restrict};

/// How long a stop waits for requests that are under way.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// How long changes are gathered before the metrics are written to their file.
const METRICS_DELAY: Duration = Duration::from_secs(1);
/// How soon the table of leases is looked at again after it was found locked.
const SOON: Duration = Duration::from_millis(100);

/// Runs the agent until it is told to stop.
///
/// # Errors
/// What it can't do without.
pub fn run(args: &Args) -> anyhow::Result<()> {
    allocator::use_one_arena();
    let filter = args.log.parse().context("--log")?;
    logging::start(filter, args.log_format)?;
    let config = Config::load(&args.config)?;
    if !rustix::process::geteuid().is_root() {
        anyhow::bail!("mounting needs root; start the agent as root, best with its systemd unit");
    }
    let sockets = activation::take_sockets().context("the sockets that systemd opened can't be used")?;
    raise_file_limit();
    // Before the restrictions, which the helper does not have.
    let helper = Arc::new(Helper::start(&args.config).context("the helper process cannot be started")?);
    let ladder = Backends::of_this_node(&config.agent, &helper);
    if !args.unrestricted {
        if !restrict::FILTERS {
            tracing::warn!(
                architecture = std::env::consts::ARCH,
                "the agent keeps all system calls: there is no filter for this architecture"
            );
        }
        restrict::apply().context("the agent can't restrict itself; --unrestricted makes it go on without")?;
    }
    // Before there is another thread, which would have to block them itself.
    let signals = signals().context("signals can't be waited for")?;
    let socket = config.agent.socket();
    let runtime = config.agent.runtime_dir.clone();
    let (leases, recovered) = Leases::open(config, ladder, helper, Metrics::new()?)
        .with_context(|| format!("can't use {}", runtime.display()))?;
    let listener = listen(sockets, &socket).with_context(|| format!("can't listen on {}", socket.display()))?;
    let server =
        Server::new(listener, signals, Box::leak(Box::new(leases)), recovered).context("can't wait for connections")?;
    let mut daemon = Daemon::new(server, args.config.clone());
    tracing::info!(socket = %socket.display(), restricted = !args.unrestricted, "ready");
    tell(&[NotifyState::Ready]);
    daemon.run()
}

/// A node has as many connections as steps, each with two descriptors.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!("the limit of open files can't be raised: {error}");
    }
}

/// Tells systemd; without systemd there is nobody to tell.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("systemd can't be told: {error}");
    }
}

/// Something to be done at some time.
type Due = Option<Instant>;

struct Daemon {
    server: Server,
    config: PathBuf,
    /// How often systemd wants to hear of the agent, if it does.
    watchdog: Option<Duration>,
    next_kick: Due,
    next_metrics: Due,
    /// When a stop that is under way no longer waits.
    stop: Due,
}

impl Daemon {
    fn new(server: Server, config: PathBuf) -> Self {
        // Twice as often as needed, as sd_watchdog_enabled(3) advises.
        let watchdog = sd_notify::watchdog_enabled().map(|interval| interval / 2);
        let now = Instant::now();
        Self { server, config, watchdog, next_kick: watchdog.map(|_| now), next_metrics: Some(now), stop: None }
    }

    fn run(&mut self) -> anyhow::Result<()> {
        loop {
            self.do_what_is_due();
            if self.stop.is_some_and(|deadline| !self.server.is_busy() || Instant::now() >= deadline) {
                tracing::info!(held = self.server.leases().held(), "stopped; steps go on");
                return Ok(());
            }
            let due = [self.next_kick, self.next_metrics, self.stop].into_iter().flatten().min();
            let turn = self.server.turn(due).context("can't wait for connections")?;
            if turn.helper_ended {
                // It was started before the agent restricted itself, so only a new agent has a new one.
                anyhow::bail!("the helper process has ended; the agent must be started anew, and steps do not notice");
            }
            let written = self.server.leases().config().agent.metrics_file().is_some();
            if turn.finished > 0 && written && self.next_metrics.is_none() {
                self.next_metrics = Some(Instant::now() + METRICS_DELAY);
            }
            for signal in turn.signals {
                match signal {
                    Signal::SIGHUP => self.reload(),
                    // Whoever asks a second time does not want to wait.
                    _ if self.stop.is_some() => return Ok(()),
                    signal => self.begin_to_stop(signal),
                }
            }
        }
    }

    fn do_what_is_due(&mut self) {
        let now = Instant::now();
        let is_due = |due: Due| due.is_some_and(|due| now >= due);
        if let (true, Some(interval)) = (is_due(self.next_kick), self.watchdog) {
            // Whether the threads that do the work still can.
            let well = self.server.leases().responds();
            if well {
                tell(&[NotifyState::Watchdog]);
            }
            self.next_kick = Some(now + if well { interval } else { SOON.min(interval) });
        }
        if is_due(self.next_metrics) {
            self.next_metrics = None;
            self.write_metrics();
        }
        let numbers = denied::take();
        if !numbers.is_empty() {
            tracing::error!(?numbers, "system calls were denied by the agent's own restrictions; please report this");
            self.server.leases().metrics().denied(numbers.len());
        }
    }

    /// Has the metrics written to their file, if there is one.
    fn write_metrics(&mut self) {
        let leases = self.server.leases();
        let config = leases.config();
        let Some(path) = config.agent.metrics_file().map(ToOwned::to_owned) else { return };
        self.server.in_background(move || {
            leases.observe();
            if let Err(error) = write_file(&path, &leases.metrics().text()) {
                tracing::warn!(file = %path.display(), "the metrics can't be written: {error}");
            }
        });
    }

    /// Reads the configuration anew. One that is of no use changes nothing.
    fn reload(&mut self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
        let leases = self.server.leases();
        let status = match Config::load(&self.config) {
            Ok(config) => {
                if leases.reconfigure(config) {
                    tracing::warn!(
                        "agent.runtime_dir is another one now; that takes a restart when no step has an image"
                    );
                }
                leases.metrics().reloaded(true);
                tracing::info!("the configuration was read anew");
                "the configuration was read anew".to_owned()
            }
            Err(error) => {
                leases.metrics().reloaded(false);
                tracing::error!("the old configuration still holds: {error}");
                format!("the old configuration still holds: {error}")
            }
        };
        self.next_metrics = Some(Instant::now());
        tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    /// Takes no more requests, and lets those under way end. Steps are left alone: the next agent takes them over.
    fn begin_to_stop(&mut self, signal: Signal) {
        tracing::info!(%signal, "stopping");
        tell(&[NotifyState::Stopping]);
        self.server.close();
        let leases = self.server.leases();
        self.server.in_background(move || leases.let_go_of_idle_layers());
        self.stop = Some(Instant::now() + STOP_PATIENCE);
    }
}
