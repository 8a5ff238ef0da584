//! What nodes fetch of one source of chunks that all share, by their number.

use super::Row;
use super::lazy::{Images, RATE, Server, with_images};
use crate::lazy_workers::{Case, Found};
use crate::report::{Figure, Measured};
use crate::session::Session;
use crate::statistics::Summary;

/// The row.
pub(super) const ROW: Row = Row { id: "lazy_nodes", measure };

const BYTES: &str =
    "bytes of the source that a node gets until a layer in chunks is complete, 16 nodes at once / 1 node";
const REQUESTS: &str = "requests to the source by a node, 16 nodes at once / 1 node";

const NODES: [usize; 3] = [1, 4, 16];
const COMMAND: &str = "HOME=/tmp chroot . python3 -B -c 'import asyncio, ssl, sqlite3'";

fn measure(session: &Session) -> anyhow::Result<Measured> {
    with_images(session, &["--flatten", "oci:/images/python"], measure_with)
}

fn measure_with(images: &Images<'_>) -> anyhow::Result<Measured> {
    let session = images.session;
    let mut server = Server::start(images, 1)?;
    let (layers, files) = (format!("{}/parallax/layers", images.store), &images.files);
    anyhow::ensure!(files.len() == 1, "{} layers", files.len());
    let file = format!("{layers}/{}", files[0]);
    let index = file.replace(".squash", ".caibx");
    let counts = if session.is_quick() { &NODES[..2] } else { &NODES };
    let mut each = Vec::new();
    let mut shown = Vec::new();
    for &nodes in counts {
        let case = Case {
            nodes,
            file: file.clone().into(),
            index: index.clone().into(),
            source: format!("http://127.0.0.1:{}/default.castr", server.port),
            command: COMMAND.to_owned(),
        };
        let before = server.counts()?;
        let case = serde_json::to_string(&case)?;
        let done = session.run("root", &[&session.program(), "on-node", "lazy-nodes", &case])?;
        let Found { command, complete } = serde_json::from_str(&done.stdout)?;
        let after = server.counts()?;
        #[expect(clippy::cast_precision_loss, reason = "there are few nodes")]
        let [requests, bytes] = [0, 1].map(|index| (after[index] - before[index]) / nodes as f64);
        shown.push(format!(
            "{nodes}: {:.1} MB and {requests:.0} requests, start {command:.1} s, complete after {complete:.1} s",
            bytes / 1e6
        ));
        each.push([requests, bytes]);
    }
    let ratio = |index: usize| Summary::of([each[each.len() - 1][index] / each[0][index]]);
    #[expect(clippy::cast_precision_loss, reason = "an image is not so large")]
    let size = images.bytes as f64 / 1e6;
    let note = format!(
        "lazy_nodes: the image python as one layer of {size:.1} MB; each node a worker with a cache of its own on this machine, {} MB/s for all, 1 ms \
         before each answer. By the number of nodes, for each: {}.",
        RATE.parse::<f64>()? / 1e6,
        shown.join("; ")
    );
    let figures = vec![
        Figure::new(ROW.id, BYTES, ratio(1), "").at_most(1.1),
        Figure::new("lazy_nodes_requests", REQUESTS, ratio(0), "").at_most(1.1),
    ];
    Ok(Measured { figures, notes: vec![note] })
}
