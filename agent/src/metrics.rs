//! The agent's metrics, in Prometheus' text format.

mod lazy;
mod registered;

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use parallax_protocol::message::Mode;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

use self::registered::{counters, kept};
use crate::lease::cause::Cause;
use crate::lease::refusal::RefusalKind;

pub use self::lazy::LazyMetrics;

/// The upper bounds of the histograms, in seconds.
const SECONDS: [f64; 15] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];

/// The reason why a connection was dropped without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// The peer was not root.
    NotRoot,
    /// The request timed out.
    Slow,
    /// Too many connections: a newer one took its place.
    Crowded,
    /// The request was malformed.
    Malformed,
}

impl Dropped {
    const ALL: [Self; 4] = [Self::NotRoot, Self::Slow, Self::Crowded, Self::Malformed];

    fn as_str(self) -> &'static str {
        match self {
            Self::NotRoot => "not_root",
            Self::Slow => "slow",
            Self::Crowded => "crowded",
            Self::Malformed => "malformed",
        }
    }
}

/// All counters, gauges and histograms.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    leases: IntGauge,
    layers: IntGauge,
    memory: IntGauge,
    files: IntGauge,
    granted: IntCounterVec,
    refused: IntCounterVec,
    released: IntCounterVec,
    problems: IntCounter,
    connections: IntCounter,
    dropped: IntCounterVec,
    reloads: IntCounterVec,
    denied: IntCounter,
    lease_seconds: Histogram,
    release_seconds: Histogram,
    lazy: LazyMetrics,
}

impl Metrics {
    /// Makes all metrics, with the value zero.
    ///
    /// # Errors
    /// Two have the same name.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let vector = |name, help, label| counters(&registry, name, help, label);
        let seconds = |name, help| {
            let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
            Histogram::with_opts(options).and_then(|histogram| kept(&registry, histogram))
        };
        let gauge = |name, help| IntGauge::new(name, help).and_then(|gauge| kept(&registry, gauge));
        let counter = |name, help| IntCounter::new(name, help).and_then(|counter| kept(&registry, counter));
        let metrics = Self {
            leases: gauge("parallax_leases", "Steps that have a lease on this node.")?,
            layers: gauge("parallax_layers_mounted", "Image layers that are mounted on this node.")?,
            memory: gauge("parallax_agent_resident_bytes", "The agent's memory.")?,
            files: gauge("parallax_agent_open_files", "The agent's open files.")?,
            granted: vector("parallax_leases_granted_total", "Leases granted, by mode.", "mode")?,
            refused: vector(
                "parallax_leases_refused_total",
                "Leases refused, by who can remove the reason.",
                "reason",
            )?,
            released: vector("parallax_leases_released_total", "Leases released, by cause.", "cause")?,
            problems: counter("parallax_release_problems_total", "Problems of releasing leases.")?,
            connections: counter("parallax_connections_total", "Connections accepted.")?,
            dropped: vector("parallax_connections_dropped_total", "Connections dropped, by reason.", "reason")?,
            reloads: vector("parallax_reloads_total", "Reloads of the configuration, by result.", "result")?,
            denied: counter("parallax_denied_system_calls_total", "System calls that the agent denied itself.")?,
            lease_seconds: seconds("parallax_lease_seconds", "Time to grant a lease.")?,
            release_seconds: seconds("parallax_release_seconds", "Time to release a lease.")?,
            lazy: LazyMetrics::new(&registry)?,
            registry: registry.clone(),
        };
        let version =
            Opts::new("parallax_agent_info", "The agent's version.").const_label("version", env!("CARGO_PKG_VERSION"));
        kept(&registry, IntGauge::with_opts(version)?)?.set(1);
        metrics.begin();
        Ok(metrics)
    }

    /// Makes every label visible with the value zero, so that the first event shows as a rise.
    fn begin(&self) {
        for mode in [Mode::Run, Mode::Podman] {
            self.granted.with_label_values(&[mode.as_str()]);
        }
        for cause in Cause::ALL {
            self.released.with_label_values(&[cause.as_str()]);
        }
        for kind in RefusalKind::ALL {
            self.refused.with_label_values(&[kind.as_str()]);
        }
        for reason in Dropped::ALL {
            self.dropped.with_label_values(&[reason.as_str()]);
        }
        for result in ["ok", "failed"] {
            self.reloads.with_label_values(&[result]);
        }
    }

    /// Returns the metrics of layers in chunks.
    #[must_use]
    pub fn lazy(&self) -> &LazyMetrics {
        &self.lazy
    }

    /// Counts a granted lease and the time it took.
    pub fn granted(&self, mode: Mode, took: Duration) {
        self.granted.with_label_values(&[mode.as_str()]).inc();
        self.lease_seconds.observe(took.as_secs_f64());
    }

    /// Counts a refused lease.
    pub fn refused(&self, kind: RefusalKind) {
        self.refused.with_label_values(&[kind.as_str()]).inc();
    }

    /// Counts a released lease, the time it took and its problems.
    pub fn released(&self, cause: Cause, took: Duration, problems: usize) {
        self.released.with_label_values(&[cause.as_str()]).inc();
        self.release_seconds.observe(took.as_secs_f64());
        self.problems.inc_by(problems as u64);
    }

    /// Counts an accepted connection.
    pub fn connected(&self) {
        self.connections.inc();
    }

    /// Counts a dropped connection.
    pub fn dropped(&self, reason: Dropped) {
        self.dropped.with_label_values(&[reason.as_str()]).inc();
    }

    /// Counts a reload and its result.
    pub fn reloaded(&self, could: bool) {
        self.reloads.with_label_values(&[if could { "ok" } else { "failed" }]).inc();
    }

    /// Counts denied system calls.
    pub fn denied(&self, count: usize) {
        self.denied.inc_by(count as u64);
    }

    /// Sets the gauges.
    pub fn observe(&self, leases: usize, layers: usize) {
        let set = |gauge: &IntGauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.leases, leases);
        set(&self.layers, layers);
        if let Some(bytes) = resident_bytes() {
            set(&self.memory, bytes);
        }
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            // Without the one that is reading.
            set(&self.files, files.count().saturating_sub(1));
        }
    }

    /// Returns all metrics as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = Vec::new();
        // Writing to memory does not fail.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// Writes a text for the node exporter to find: whole or not at all, by write and rename.
///
/// # Errors
/// Those of the system calls.
pub fn write_file(path: &Path, text: &str) -> io::Result<()> {
    // The node exporter reads what ends in ".prom".
    let partial = path.with_extension("new");
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&partial)?;
    file.write_all(text.as_bytes())?;
    fs::rename(partial, path)
}

fn resident_bytes() -> Option<usize> {
    let pages: usize = fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_events_are_in_the_text() {
        let metrics = Metrics::new().unwrap();
        metrics.granted(Mode::Run, Duration::from_millis(3));
        metrics.released(Cause::Process, Duration::from_secs(3), 2);
        metrics.refused(RefusalKind::User);
        metrics.refused(RefusalKind::User);
        metrics.refused(RefusalKind::Busy);
        metrics.dropped(Dropped::Slow);
        metrics.observe(5, 7);
        let text = metrics.text();
        for line in [
            "# TYPE parallax_leases_granted_total counter",
            "parallax_leases_granted_total{mode=\"run\"} 1",
            "parallax_leases_granted_total{mode=\"podman\"} 0",
            "parallax_leases_released_total{cause=\"process\"} 1",
            "parallax_leases_refused_total{reason=\"user\"} 2",
            "parallax_leases_refused_total{reason=\"administrator\"} 0",
            "parallax_leases_refused_total{reason=\"busy\"} 1",
            "parallax_connections_dropped_total{reason=\"slow\"} 1",
            "parallax_release_problems_total 2",
            "parallax_leases 5",
            "parallax_layers_mounted 7",
            "# TYPE parallax_lease_seconds histogram",
            "parallax_lease_seconds_bucket{le=\"0.002\"} 0",
            "parallax_lease_seconds_bucket{le=\"0.005\"} 1",
            "parallax_lease_seconds_bucket{le=\"+Inf\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in {text}");
        }
        let resident = text.lines().find_map(|line| line.strip_prefix("parallax_agent_resident_bytes ")).unwrap();
        assert!(resident.parse::<u64>().unwrap() > 100_000, "{resident}");
    }

    #[test]
    fn a_file_is_written_whole_and_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("parallax.prom");
        // A symbolic link at the temporary file's place is not followed.
        std::os::unix::fs::symlink("/nonexistent/elsewhere", path.with_extension("new")).unwrap();
        for text in ["one", "two"] {
            write_file(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
