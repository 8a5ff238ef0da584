//! The daemon: start, reload and stop, and the notifications to systemd.
//!
//! One thread waits for all events and for nothing else; other threads do what takes time ([`crate::server`]). So the
//! thread wakes up for events only, and a missing watchdog notification means that it hangs.

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
use crate::layers::KeptLayers;
use crate::lease::Leases;
use crate::metrics::{Metrics, write_file};
use crate::server::{Server, listen, signals};
use crate::{logging, restrict};

/// Timeout for requests in progress when the agent stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Delay between a change and the write of the metrics file.
const METRICS_DELAY: Duration = Duration::from_secs(1);
/// Interval between checks of the table of leases after it was found locked.
const WATCHDOG_RETRY_INTERVAL: Duration = Duration::from_millis(100);

fn warn_about(config: &Config) {
    if let Some(warning) = config.warning() {
        tracing::warn!("{warning}");
    }
}

/// Runs the agent until a signal stops it.
///
/// # Errors
/// The configuration, the runtime directory, the socket or the helper cannot be used, or restrictions cannot be applied.
pub fn run(args: &Args) -> anyhow::Result<()> {
    allocator::use_one_arena();
    let filter = args.log.parse().context("--log")?;
    logging::start(filter, args.log_format)?;
    let config = Config::load(&args.config)?;
    warn_about(&config);
    if !rustix::process::geteuid().is_root() {
        anyhow::bail!("mounting needs root; start the agent as root, best with its systemd unit");
    }
    let passed = activation::take_passed().context("cannot use the descriptors that systemd passed")?;
    let (sockets, kept) = KeptLayers::of(passed);
    raise_file_limit();
    // Before the restrictions, which the helper does not have.
    let helper = Arc::new(Helper::start(&args.config).context("cannot start the helper process")?);
    let backends = Backends::of_this_node(&config, &helper);
    if !args.unrestricted {
        if !restrict::FILTERS {
            tracing::warn!(
                architecture = std::env::consts::ARCH,
                "the agent keeps all system calls: there is no filter for this architecture"
            );
        }
        restrict::apply().context("cannot apply the agent's restrictions; --unrestricted starts it without them")?;
    }
    // Before there is another thread, which would have to block them itself.
    let signals = signals().context("cannot wait for signals")?;
    let socket = config.agent.socket();
    let runtime = config.agent.runtime_dir.clone();
    let (leases, recovered) = Leases::open(config, backends, helper, Metrics::new()?, kept)
        .with_context(|| format!("cannot use {}", runtime.display()))?;
    let listener = listen(sockets, &socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    let server = Server::new(listener, signals, Box::leak(Box::new(leases)), recovered)
        .context("cannot wait for connections")?;
    let mut daemon = Daemon::new(server, args.config.clone());
    tracing::info!(socket = %socket.display(), restricted = !args.unrestricted, "ready");
    notify_systemd(&[NotifyState::Ready]);
    daemon.run()
}

/// A node has as many connections as steps, each with two descriptors.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
}

/// Notifies systemd; does nothing without systemd.
fn notify_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot notify systemd: {error}");
    }
}

/// The time of a scheduled action.
type Due = Option<Instant>;

struct Daemon {
    server: Server,
    config: PathBuf,
    /// Interval of the watchdog notifications, if systemd expects them.
    watchdog: Option<Duration>,
    next_watchdog: Due,
    next_metrics: Due,
    /// The deadline of a stop in progress.
    stop: Due,
}

impl Daemon {
    fn new(server: Server, config: PathBuf) -> Self {
        // Twice as often as needed, as sd_watchdog_enabled(3) advises.
        let watchdog = sd_notify::watchdog_enabled().map(|interval| interval / 2);
        let now = Instant::now();
        Self { server, config, watchdog, next_watchdog: watchdog.map(|_| now), next_metrics: Some(now), stop: None }
    }

    fn run(&mut self) -> anyhow::Result<()> {
        loop {
            self.do_what_is_due();
            if self.stop.is_some_and(|deadline| !self.server.is_busy() || Instant::now() >= deadline) {
                tracing::info!(held = self.server.leases().count(), "stopped; steps continue");
                return Ok(());
            }
            let due = [self.next_watchdog, self.next_metrics, self.stop].into_iter().flatten().min();
            let iteration = self.server.run_iteration(due).context("cannot wait for connections")?;
            if iteration.helper_ended {
                // It was started before the agent restricted itself, so only a new agent has a new one.
                anyhow::bail!("the helper process has ended; restart the agent, which does not affect steps");
            }
            let written = self.server.leases().config().agent.metrics_file().is_some();
            if iteration.finished > 0 && written && self.next_metrics.is_none() {
                self.next_metrics = Some(Instant::now() + METRICS_DELAY);
            }
            for signal in iteration.signals {
                match signal {
                    Signal::SIGHUP => self.reload(),
                    // A second signal stops without waiting.
                    _ if self.stop.is_some() => return Ok(()),
                    signal => self.begin_to_stop(signal),
                }
            }
        }
    }

    fn do_what_is_due(&mut self) {
        let now = Instant::now();
        let is_due = |due: Due| due.is_some_and(|due| now >= due);
        if let (true, Some(interval)) = (is_due(self.next_watchdog), self.watchdog) {
            // Whether the threads that do the work still can.
            let well = self.server.leases().responds();
            if well {
                notify_systemd(&[NotifyState::Watchdog]);
            }
            self.next_watchdog = Some(now + if well { interval } else { WATCHDOG_RETRY_INTERVAL.min(interval) });
        }
        if is_due(self.next_metrics) {
            self.next_metrics = None;
            self.write_metrics();
        }
        let numbers = denied::take();
        if !numbers.is_empty() {
            tracing::error!(?numbers, "system calls denied by the agent's own restrictions; please report this");
            self.server.leases().metrics().denied(numbers.len());
        }
    }

    /// Writes the metrics file, if one is configured, in a worker.
    fn write_metrics(&mut self) {
        let leases = self.server.leases();
        let config = leases.config();
        let Some(path) = config.agent.metrics_file().map(ToOwned::to_owned) else { return };
        self.server.in_background(move || {
            leases.observe();
            if let Err(error) = write_file(&path, &leases.metrics().text()) {
                tracing::warn!(file = %path.display(), "cannot write the metrics: {error}");
            }
        });
    }

    /// Reloads the configuration. An invalid file is rejected and the old configuration kept.
    fn reload(&mut self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify_systemd(&[NotifyState::Reloading, now]),
            Err(_) => notify_systemd(&[NotifyState::Reloading]),
        }
        let leases = self.server.leases();
        let status = match Config::load(&self.config) {
            Ok(config) => {
                warn_about(&config);
                if leases.reconfigure(config) {
                    tracing::warn!(
                        "agent.runtime_dir changed; restart the agent while no leases are active to apply it"
                    );
                }
                self.server.in_background(move || leases.clear_disk());
                leases.metrics().reloaded(true);
                tracing::info!("configuration reloaded");
                "configuration reloaded".to_owned()
            }
            Err(error) => {
                leases.metrics().reloaded(false);
                tracing::error!("configuration rejected, the old one is kept: {error}");
                format!("configuration rejected, the old one is kept: {error}")
            }
        };
        self.next_metrics = Some(Instant::now());
        notify_systemd(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    /// Stops accepting requests; those in progress may finish. Steps continue: the next agent adopts them.
    fn begin_to_stop(&mut self, signal: Signal) {
        tracing::info!(%signal, "stopping");
        notify_systemd(&[NotifyState::Stopping]);
        self.server.close();
        let leases = self.server.leases();
        self.server.in_background(move || leases.unmount_idle_layers());
        self.stop = Some(Instant::now() + STOP_TIMEOUT);
    }
}
