//! `parallax status --lazy`.

use std::fmt::Write as _;

use anyhow::{Context as _, ensure};
use parallax_config::Lazy;
use parallax_lazy_file::status::{CacheStatus, LayerStatus, ReadStatus, SourceStatus, WorkerStatus};

use crate::output::{print, print_json};
use crate::{lazy_worker, units};

/// Shows the state of `parallax-lazy`.
///
/// # Errors
/// It is not used on this node, or does not answer.
pub(super) fn run(config: &Lazy, json: bool) -> anyhow::Result<()> {
    ensure!(config.enabled, "no layer arrives as it is read on this node: lazy.enabled is false");
    let status = lazy_worker::status(&config.socket).with_context(|| format!("start it: {}", lazy_worker::REMEDY))?;
    if json { print_json(&status) } else { print(&table(&status)) }
}

fn table(status: &WorkerStatus) -> String {
    let mut lines = vec![["LAYER", "SIZE", "HERE", "STATE"].map(str::to_owned)];
    lines.extend(status.layers.iter().map(|layer| {
        let LayerStatus { sha256, size, there, waits, failed } = layer;
        let percent = there.saturating_mul(100).checked_div(*size).unwrap_or(100);
        let state = match failed {
            Some(reason) => format!("reading failed: {reason}"),
            None if *waits => "readers wait".to_owned(),
            None if there == size => "complete".to_owned(),
            None => "arriving".to_owned(),
        };
        [sha256.short().to_owned(), units::bytes(*size), format!("{percent} %"), state]
    }));
    let mut text = units::columns(&lines);
    let CacheStatus { used, limit, shared_chunks } = &status.cache;
    let (used, limit) = (units::bytes(*used), units::bytes(*limit));
    let _ = writeln!(text, "cache: {used} of {limit}, {shared_chunks} chunks from other layers");
    let ReadStatus { cached, fetched, chunks_in_progress } = &status.reads;
    let _ = writeln!(
        text,
        "reads: {cached} from the cache, {fetched} waited for chunks; {chunks_in_progress} chunks in progress"
    );
    for SourceStatus { name, chunks, bytes, failures, reason } in &status.sources {
        let last = reason.as_ref().map_or(String::new(), |reason| format!(", the last one: {reason}"));
        let _ = writeln!(text, "{name}: {chunks} chunks, {}, {failures} failures{last}", units::bytes(*bytes));
    }
    if let Some(error) = &status.error {
        let _ = writeln!(text, "no layer is served: {error}");
    }
    text
}

#[cfg(test)]
mod tests {
    use parallax_format::digest::Sha256;

    use super::*;

    #[test]
    fn a_table_of_layers_that_arrive() {
        let layer = LayerStatus {
            sha256: Sha256::from([0xab; 32]),
            size: 2_000_000,
            there: 500_000,
            waits: false,
            failed: None,
        };
        let waiting = LayerStatus { waits: true, ..layer.clone() };
        let complete = LayerStatus { there: layer.size, ..layer.clone() };
        let failed = LayerStatus { failed: Some("not found".to_owned()), ..waiting.clone() };
        let source = SourceStatus {
            name: "http://a".to_owned(),
            chunks: 7,
            bytes: 1000,
            failures: 2,
            reason: Some("timeout".to_owned()),
        };
        let status = WorkerStatus {
            version: "1".to_owned(),
            cache: CacheStatus { used: 3_000_000, limit: 4_000_000, shared_chunks: 3 },
            reads: ReadStatus { cached: 90, fetched: 10, chunks_in_progress: 4 },
            layers: vec![layer, waiting, complete, failed],
            sources: vec![source],
            error: Some("invalid bucket".to_owned()),
        };
        let expected = "LAYER         SIZE     HERE   STATE\n\
                        abababababab  2.00 MB  25 %   arriving\n\
                        abababababab  2.00 MB  25 %   readers wait\n\
                        abababababab  2.00 MB  100 %  complete\n\
                        abababababab  2.00 MB  25 %   reading failed: not found\n\
                        cache: 3.00 MB of 4.00 MB, 3 chunks from other layers\n\
                        reads: 90 from the cache, 10 waited for chunks; 4 chunks in progress\n\
                        http://a: 7 chunks, 1.00 kB, 2 failures, the last one: timeout\n\
                        no layer is served: invalid bucket\n";
        assert_eq!(table(&status), expected);
    }
}
