//! Lanes: threads that run tests side by side.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Instant;

use crate::cluster::Cluster;

use super::prepare::Prepared;
use super::queue::Queue;
use super::report::{Outcome, Report};
use super::{Body, Need, Test};

/// Runs all tests of the queue: first in lanes side by side, then those that want to be alone, then the last ones.
pub(super) fn run_all(prepared: &Prepared, queue: &Queue, report: &Report) {
    thread::scope(|scope| {
        scope.spawn(|| work(prepared, None, &[Need::Machine], queue, report));
        for (number, cluster) in prepared.clusters().iter().enumerate() {
            // The last lane has the guests, because the first one is the cluster that people use by hand.
            let has_guests = number + 1 == prepared.clusters().len();
            let needs: &[Need] = if has_guests { &[Need::Guest, Need::Cluster] } else { &[Need::Cluster] };
            scope.spawn(move || work(prepared, Some(cluster), needs, queue, report));
        }
    });
    work(prepared, prepared.clusters().first(), &[Need::Alone], queue, report);
    work(prepared, None, &[Need::Last], queue, report);
}

/// Runs the tests of one lane until none is left for it.
fn work(prepared: &Prepared, cluster: Option<&Cluster>, needs: &[Need], queue: &Queue, report: &Report) {
    while let Some(test) = queue.take(needs) {
        if let Some(signal) = prepared.interrupted() {
            report.add(Outcome::failed(&test, format!("interrupted by signal {signal}")));
            continue;
        }
        report.begin(&test.name);
        let started = Instant::now();
        let result =
            catch_unwind(AssertUnwindSafe(|| run(&test, cluster))).unwrap_or_else(|panic| Err(message(&*panic)));
        let lane =
            cluster.map_or("machine", |cluster| if cluster.name().is_empty() { "first" } else { cluster.name() });
        report.add(Outcome { name: test.name, lane, duration: started.elapsed(), result });
    }
}

fn run(test: &Test, cluster: Option<&Cluster>) -> Result<(), String> {
    match (&test.body, cluster) {
        (Body::Machine(body), _) => body(),
        (Body::Cluster(body), Some(cluster)) => body(cluster),
        (Body::Cluster(_), None) => Err("the test needs a cluster, and its lane has none".to_owned()),
    }
}

/// The text of a panic.
fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", text.unwrap_or("no text"))
}
