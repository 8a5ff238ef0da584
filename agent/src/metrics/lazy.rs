//! The metrics of layers in chunks. What `parallax-lazy` counts begins at zero when it starts, as counters may.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use parallax_lazy_file::status::{LayerStatus, WorkerStatus};
use prometheus::{Counter, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::registered::{counters, kept};

/// The metrics; all are zero unless `lazy.enabled`.
#[derive(Debug)]
pub struct LazyMetrics {
    up: IntGauge,
    layers: IntGaugeVec,
    cache: IntGauge,
    in_progress: IntGauge,
    reads: IntCounterVec,
    shared: IntCounter,
    source_bytes: IntCounterVec,
    source_chunks: IntCounterVec,
    source_failures: IntCounterVec,
    swaps: IntCounter,
    swap_seconds: Counter,
    /// One is observed at a time: counters that others keep are set anew.
    observing: Mutex<()>,
}

impl LazyMetrics {
    /// Makes the metrics, with the value zero.
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let vector = |name, help, label| counters(registry, name, help, label);
        let gauge = |name, help| IntGauge::new(name, help).and_then(|gauge| kept(registry, gauge));
        let counter = |name, help| IntCounter::new(name, help).and_then(|counter| kept(registry, counter));
        let layers = Opts::new("parallax_lazy_layers", "Layers that are served in chunks, by state.");
        Ok(Self {
            up: gauge("parallax_lazy_up", "Whether parallax-lazy answers.")?,
            layers: kept(registry, IntGaugeVec::new(layers, &["state"])?)?,
            cache: gauge("parallax_lazy_cache_bytes", "Size of the cache of chunks.")?,
            in_progress: gauge("parallax_lazy_chunks_in_progress", "Chunks that are being fetched.")?,
            reads: vector("parallax_lazy_reads_total", "Reads of layers, by where the chunks came from.", "from")?,
            shared: counter("parallax_lazy_shared_chunks_total", "Chunks that another layer of the cache had.")?,
            source_bytes: vector("parallax_lazy_source_bytes_total", "Bytes from a chunk store.", "source")?,
            source_chunks: vector("parallax_lazy_source_chunks_total", "Chunks from a chunk store.", "source")?,
            source_failures: vector(
                "parallax_lazy_source_failures_total",
                "Chunks that a chunk store did not return.",
                "source",
            )?,
            swaps: counter("parallax_lazy_swaps_total", "Layers whose complete file took the place of the chunks.")?,
            swap_seconds: kept(
                registry,
                Counter::new("parallax_lazy_swap_seconds_total", "Time from their mounts until then, in sum.")?,
            )?,
            observing: Mutex::default(),
        })
    }

    /// Sets all metrics: `status` is what `parallax-lazy` answered, if it did, `swaps` how many layers became complete and the sum of their
    /// times.
    pub fn observe(&self, status: Option<&WorkerStatus>, swaps: (u64, Duration)) {
        let _observing = self.observing.lock().unwrap_or_else(PoisonError::into_inner);
        self.swaps.reset();
        self.swaps.inc_by(swaps.0);
        self.swap_seconds.reset();
        self.swap_seconds.inc_by(swaps.1.as_secs_f64());
        self.up.set(status.is_some().into());
        let Some(status) = status else { return };
        let set = |gauge: &IntGauge, value: u64| gauge.set(value.try_into().unwrap_or(i64::MAX));
        set(&self.cache, status.cache.used);
        set(&self.in_progress, status.reads.chunks_in_progress);
        let in_state = |state: &str| status.layers.iter().filter(|layer| state_of(layer) == state).count();
        for state in STATES {
            set(&self.layers.with_label_values(&[state]), in_state(state) as u64);
        }
        self.shared.reset();
        self.shared.inc_by(status.cache.shared_chunks);
        for counters in [&self.reads, &self.source_bytes, &self.source_chunks, &self.source_failures] {
            counters.reset();
        }
        self.reads.with_label_values(&["cache"]).inc_by(status.reads.cached);
        self.reads.with_label_values(&["sources"]).inc_by(status.reads.fetched);
        for source in &status.sources {
            let label = [without_credentials(&source.name)];
            self.source_bytes.with_label_values(&label).inc_by(source.bytes);
            self.source_chunks.with_label_values(&label).inc_by(source.chunks);
            self.source_failures.with_label_values(&label).inc_by(source.failures);
        }
    }
}

const STATES: [&str; 3] = ["arriving", "waiting", "failed"];

fn state_of(layer: &LayerStatus) -> &'static str {
    match layer {
        LayerStatus { failed: Some(_), .. } => "failed",
        LayerStatus { waits: true, .. } => "waiting",
        _ => "arriving",
    }
}

/// Returns a URL without the part in which its user and password are: everybody may read the file of the metrics.
fn without_credentials(source: &str) -> String {
    match source.split_once("://") {
        Some((scheme, rest)) => {
            let host = rest.find('/').unwrap_or(rest.len());
            let begin = rest.get(..host).and_then(|authority| authority.rfind('@')).map_or(0, |at| at + 1);
            format!("{scheme}://{}", rest.get(begin..).unwrap_or_default())
        }
        None => source.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use parallax_format::digest::Sha256;
    use parallax_lazy_file::status::{CacheStatus, ReadStatus, SourceStatus};

    use prometheus::TextEncoder;

    use super::*;

    #[test]
    fn the_state_of_parallax_lazy_is_in_the_text() {
        let layer = LayerStatus { sha256: Sha256::from([1; 32]), size: 9, there: 3, waits: false, failed: None };
        let waiting = LayerStatus { waits: true, ..layer.clone() };
        let source =
            |name: &str| SourceStatus { name: name.to_owned(), chunks: 7, bytes: 1000, failures: 2, reason: None };
        let status = WorkerStatus {
            version: "1".to_owned(),
            cache: CacheStatus { used: 3000, limit: 4000, shared_chunks: 3 },
            reads: ReadStatus { cached: 90, fetched: 10, chunks_in_progress: 4 },
            layers: vec![layer.clone(), layer, waiting],
            sources: vec![source("https://user:word@host/a@b"), source("/shared/store")],
            error: None,
        };
        let registry = Registry::new();
        let metrics = LazyMetrics::new(&registry).unwrap();
        let text = || TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        let has = |line: &str| text().lines().any(|found| found == line);
        assert!(has("parallax_lazy_up 0"));
        // Twice: what was counted before is in what is counted now.
        for _ in 0..2 {
            metrics.observe(Some(&status), (2, Duration::from_millis(2500)));
        }
        for line in [
            "parallax_lazy_up 1",
            "parallax_lazy_layers{state=\"arriving\"} 2",
            "parallax_lazy_layers{state=\"waiting\"} 1",
            "parallax_lazy_layers{state=\"failed\"} 0",
            "parallax_lazy_cache_bytes 3000",
            "parallax_lazy_chunks_in_progress 4",
            "parallax_lazy_reads_total{from=\"cache\"} 90",
            "parallax_lazy_reads_total{from=\"sources\"} 10",
            "parallax_lazy_shared_chunks_total 3",
            "parallax_lazy_source_bytes_total{source=\"https://host/a@b\"} 1000",
            "parallax_lazy_source_chunks_total{source=\"/shared/store\"} 7",
            "parallax_lazy_source_failures_total{source=\"/shared/store\"} 2",
            "parallax_lazy_swaps_total 2",
            "parallax_lazy_swap_seconds_total 2.5",
        ] {
            assert!(has(line), "no {line} in {}", text());
        }
        metrics.observe(None, (2, Duration::from_millis(2500)));
        assert!(has("parallax_lazy_up 0"));
    }
}
