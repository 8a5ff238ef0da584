//! Metrics that are made and registered.

use prometheus::core::Collector;
use prometheus::{IntCounterVec, Opts, Registry};

/// Makes a vector of counters.
pub(super) fn counters(registry: &Registry, name: &str, help: &str, label: &str) -> prometheus::Result<IntCounterVec> {
    kept(registry, IntCounterVec::new(Opts::new(name, help), &[label])?)
}

/// Registers a metric.
pub(super) fn kept<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
