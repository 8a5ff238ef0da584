//! Progress of a migration: bars on a terminal, plain lines elsewhere, JSON lines on request.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use parallax_format::digest::short_id;
use serde::Serialize;

use crate::global::{Global, LogFormat};
use crate::output::PROGRESS;
use crate::{output, units};

/// Template of a bar: bytes so far, total, bytes per second, remaining time.
const STYLE: &str =
    "{prefix:16} {bar:30} {decimal_bytes:>10}/{decimal_total_bytes:10} {decimal_bytes_per_sec:>12} {eta:>4} left";
/// Interval of a layer's progress events in JSON.
const EVENT_INTERVAL: Duration = Duration::from_secs(1);

/// Output of progress.
#[derive(Debug)]
pub struct Progress {
    bars: Option<MultiProgress>,
    json: bool,
    quiet: bool,
}

impl Progress {
    /// Returns progress on standard error; none if `silent` or with `--quiet`.
    pub fn new(global: &Global, silent: bool) -> Self {
        let (json, quiet) = (global.log_format == LogFormat::Json, global.quiet || silent);
        let bars = (!quiet && !json && output::draws_bars()).then(output::bars);
        Self { bars, json, quiet }
    }

    /// Prints a line.
    pub fn line(&self, text: &str) {
        match &self.bars {
            _ if self.json => tracing::info!(target: PROGRESS, event = "note", "{text}"),
            _ if self.quiet => {}
            // Fails only if the terminal is gone.
            Some(bars) => drop(bars.println(output::printable(text))),
            None => output::message(text),
        }
    }

    /// Reports that an image is in the store.
    pub fn image(&self, text: &str, outcome: &impl Serialize) {
        if !self.json {
            return self.line(text);
        }
        let outcome = serde_json::to_string(outcome).unwrap_or_default();
        tracing::info!(target: PROGRESS, event = "image", outcome, "{text}");
    }

    /// Shows one layer of `size` bytes to fetch, until it is dropped.
    pub fn layer(&self, diff_id: &str, size: u64) -> LayerProgress {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new(size));
            if let Ok(style) = ProgressStyle::with_template(STYLE) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(short_id(diff_id).to_owned());
            bar
        });
        if self.json {
            tracing::info!(target: PROGRESS, event = "layer-start", layer = diff_id, total = size, "layer {}", short_id(diff_id));
        }
        LayerProgress { bar, json: self.json, layer: diff_id.into(), bytes: Arc::default(), total: size }
    }
}

/// The progress of one layer.
#[derive(Debug)]
pub struct LayerProgress {
    bar: Option<ProgressBar>,
    json: bool,
    layer: Arc<str>,
    bytes: Arc<AtomicU64>,
    total: u64,
}

impl LayerProgress {
    /// Restarts the progress: the layer is read again.
    pub fn restart(&self) {
        self.bytes.store(0, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.set_position(0);
        }
    }

    /// Returns a reader that reports the bytes read from `source`.
    pub fn count<R: Read>(&self, source: R) -> Counted<R> {
        let Self { bar, json, layer, bytes, total } = self;
        let (layer, bytes) = (Arc::clone(layer), Arc::clone(bytes));
        Counted { source, bar: bar.clone(), json: *json, layer, bytes, total: *total, reported: Instant::now() }
    }

    /// Reports the finished layer: the numbers of its chunks and of the new ones, and the size of these in the store in bytes.
    pub fn chunked(&self, chunks: u64, new: u64, stored: u64, progress: &Progress) {
        let short = short_id(&self.layer);
        if self.json {
            tracing::info!(target: PROGRESS, event = "layer-chunked", layer = &*self.layer, chunks, new, stored, "layer {short}");
        } else {
            let chunks = units::count(usize::try_from(chunks).unwrap_or(usize::MAX), "chunk");
            progress.line(&format!("layer {short}: {chunks}, {new} new, {} stored", units::bytes(stored)));
        }
    }

    /// Reports the finished layer: the size of its tar stream and of its file in bytes.
    pub fn done(&self, size: u64, stored: u64, progress: &Progress) {
        let short = short_id(&self.layer);
        if self.json {
            tracing::info!(target: PROGRESS, event = "layer", layer = &*self.layer, size, stored, "layer {short}");
        } else {
            progress.line(&format!("layer {short}: {} in, {} stored", units::bytes(size), units::bytes(stored)));
        }
    }
}

impl Drop for LayerProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A reader whose bytes are shown.
#[derive(Debug)]
pub struct Counted<R> {
    source: R,
    bar: Option<ProgressBar>,
    json: bool,
    layer: Arc<str>,
    bytes: Arc<AtomicU64>,
    total: u64,
    reported: Instant,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.source.read(buffer)?;
        if let Some(bar) = &self.bar {
            bar.inc(got as u64);
        }
        if self.json {
            let bytes = self.bytes.fetch_add(got as u64, Ordering::Relaxed) + got as u64;
            if self.reported.elapsed() >= EVENT_INTERVAL {
                self.reported = Instant::now();
                let (layer, total) = (&*self.layer, self.total);
                tracing::info!(target: PROGRESS, event = "layer-progress", layer, bytes, total, "layer {}", short_id(layer));
            }
        }
        Ok(got)
    }
}
