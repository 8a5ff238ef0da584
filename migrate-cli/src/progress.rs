//! What a migration shows while it runs: bars on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal as _, Read};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

const STYLE: &str = "{prefix:16} {bar:30} {bytes:>10}/{total_bytes:10} {bytes_per_sec:>12} {eta:>4}";

/// Where progress is shown.
#[derive(Debug)]
pub struct Progress {
    bars: Option<MultiProgress>,
    quiet: bool,
}

impl Progress {
    /// Progress on standard error.
    pub fn new(quiet: bool) -> Self {
        let bars = (!quiet && io::stderr().is_terminal()).then(MultiProgress::new);
        Self { bars, quiet }
    }

    /// A line that stays, such as what has been finished.
    pub fn line(&self, text: &str) {
        match &self.bars {
            _ if self.quiet => {}
            // If the terminal is gone there is nobody to tell.
            Some(bars) => drop(bars.println(text)),
            None => eprintln!("{text}"),
        }
    }

    /// A bar for one layer of `size` bytes to fetch. It goes when it is dropped.
    pub fn layer(&self, diff_id: &str, size: u64) -> LayerProgress {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new(size));
            if let Ok(style) = ProgressStyle::with_template(STYLE) {
                bar.set_style(style);
            }
            bar.set_prefix(diff_id.get(..12).unwrap_or(diff_id).to_owned());
            bar
        });
        LayerProgress(bar)
    }
}

/// The progress of one layer.
#[derive(Debug)]
pub struct LayerProgress(Option<ProgressBar>);

impl LayerProgress {
    /// Counts what is read through the result.
    pub fn count<R: Read>(&self, source: R) -> Counted<R> {
        if let Some(bar) = &self.0 {
            bar.set_position(0);
        }
        Counted { source, bar: self.0.clone() }
    }
}

impl Drop for LayerProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// A reader whose bytes are shown.
#[derive(Debug)]
pub struct Counted<R> {
    source: R,
    bar: Option<ProgressBar>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.source.read(buffer)?;
        if let Some(bar) = &self.bar {
            bar.inc(got as u64);
        }
        Ok(got)
    }
}
