//! `parallax-lazy`, if layers in chunks are mounted.

use std::path::{Path, PathBuf};

use parallax_config::Lazy;
use parallax_format::layout::CHUNK_STORE;
use parallax_format::record::LayerRecord;
use parallax_lazy_file::status::WorkerStatus;
use parallax_store::{Store, read};

use super::check::Check;
use crate::lazy_worker::{REMEDY, status};
use crate::units;

/// The topic of these checks.
const TOPIC: &str = "lazy";

/// Checks that `parallax-lazy` answers, which only root can ask, and that its chunk stores return chunks; and that images which are in
/// stores in chunks only can be used.
pub(super) fn check(config: &Lazy, stores: &[PathBuf], is_root: bool) -> Vec<Check> {
    if !config.enabled {
        return stores.iter().filter_map(|store| without_files(store)).collect();
    }
    let socket = config.socket.display();
    if !is_root {
        return vec![if config.socket.exists() {
            Check::ok(TOPIC, format!("{socket} exists; only root can query parallax-lazy"))
        } else {
            Check::problem(TOPIC, format!("{socket} not found: no parallax-lazy on this machine"), REMEDY)
        }];
    }
    match status(&config.socket) {
        Ok(status) => answers(&status),
        Err(error) => vec![Check::problem(TOPIC, format!("{error:#}"), REMEDY)],
    }
}

/// Names a store with images in chunks only. What cannot be read is the concern of other checks.
fn without_files(path: &Path) -> Option<Check> {
    let store = Store::open(path).ok().filter(|store| store.root().join(CHUNK_STORE).exists())?;
    let only_chunks = |layer: &LayerRecord| store.is_in_chunks_only(layer).unwrap_or(false);
    let images = read::list(path).ok()?.images;
    let count = images.iter().filter(|image| image.record.layers.iter().any(only_chunks)).count();
    (count > 0).then(|| {
        let (images, path) = (units::count(count, "image"), path.display());
        let finding = format!("{path} has {images} in chunks only; steps with them need \"lazy.enabled\"");
        let remedy = "enable parallax-lazy on compute nodes, or make the files again: parallax chunk --whole IMAGE";
        Check::warning(TOPIC, finding, remedy)
    })
}

fn answers(status: &WorkerStatus) -> Vec<Check> {
    let (used, limit) = (units::bytes(status.cache.used), units::bytes(status.cache.limit));
    let finding = format!("parallax-lazy {} runs; {used} of {limit} cached", status.version);
    let mut checks = vec![Check::ok(TOPIC, finding)];
    let failing = status.sources.iter().filter(|source| source.failures > 0 && source.chunks == 0);
    checks.extend(status.error.iter().map(|error| {
        let finding = format!("parallax-lazy serves no layer: {error}");
        Check::problem(TOPIC, finding, "correct it, and systemctl restart parallax-lazy")
    }));
    checks.extend(failing.map(|source| {
        let reason = source.reason.as_deref().unwrap_or("not found");
        let finding = format!("no chunk of {} came from {}: {reason}", source.failures, source.name);
        Check::warning(TOPIC, finding, "correct \"lazy.sources\", or look at the log of parallax-lazy")
    }));
    checks
}

#[cfg(test)]
mod tests {
    use parallax_lazy_file::status::{CacheStatus, ReadStatus, SourceStatus};

    use super::super::check::State;
    use super::*;

    #[test]
    fn a_chunk_store_that_returns_nothing_is_named() {
        let source = |name: &str, chunks, failures| SourceStatus {
            name: name.to_owned(),
            chunks,
            bytes: 0,
            failures,
            reason: Some("HTTP status 403".to_owned()),
        };
        let status = WorkerStatus {
            version: "1".to_owned(),
            cache: CacheStatus { used: 1000, limit: 2000, shared_chunks: 0 },
            reads: ReadStatus::default(),
            layers: Vec::new(),
            sources: vec![source("http://a", 0, 3), source("/b", 5, 1), source("/c", 0, 0)],
            error: None,
        };
        let checks = answers(&status);
        assert_eq!(checks.iter().map(|check| check.state).collect::<Vec<_>>(), [State::Ok, State::Warning]);
        assert_eq!(checks[1].finding, "no chunk of 3 came from http://a: HTTP status 403");
        let broken = WorkerStatus { error: Some("no key".to_owned()), ..WorkerStatus::default() };
        assert_eq!(answers(&broken)[1].state, State::Problem);
        assert!(check(&Lazy::default(), &[], true).is_empty());
        let config = Lazy { enabled: true, socket: "/nonexistent/socket".into(), ..Lazy::default() };
        for is_root in [false, true] {
            assert_eq!(check(&config, &[], is_root)[0].state, State::Problem);
        }
    }
}
