//! How a layer's SquashFS file is read: by the page cache or past it, with more or less readahead, in blocks of several sizes; from the disk and
//! from a source that answers each request after 1 ms.

use std::fmt::Write as _;
use std::time::Duration;

use super::Row;
use crate::layer_mount::{Case, Found};
use crate::report::{Figure, Measured};
use crate::sampler::turns;
use crate::session::Session;
use crate::statistics::Summary;

/// The row.
pub(super) const ROW: Row = Row { id: "layer_reads", measure };

const START: &str = "cold start of Python with numpy, scipy and pandas, file read by the page cache / past it, source with 1 ms a request";
const READ: &str = "the same, reading all files";
const START_DISK: &str = "the same start from the local disk";
const READ_DISK: &str = "the same, reading all files from the local disk";
const BEST: &str = "the same start at 1 ms as it is by default / with the best of the readaheads, by the page cache, blocks of 128 KiB";

const LATENCY: Duration = Duration::from_millis(1);
/// The readahead that Linux gives devices and FUSE, in KiB.
const USUAL: u32 = 128;
const BLOCKS: [&str; 3] = ["128KiB", "256KiB", "1MiB"];
/// Of the local disk. What comes from the other source takes the time of its requests, once is enough.
const ROUNDS: usize = 3;

/// A way to read the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    /// Index in [`BLOCKS`].
    block: usize,
    direct: bool,
    /// Readahead of the loop device in KiB.
    readahead: u32,
    /// That of the source in KiB, if it is not on the disk.
    source: u32,
}

const fn way(block: usize, direct: bool, readahead: u32, source: u32) -> Way {
    Way { block, direct, readahead, source }
}

/// The first is the default, the second is it with direct reads.
const WAYS: [Way; 13] = [
    way(0, false, USUAL, USUAL),
    way(0, true, USUAL, USUAL),
    way(0, false, 512, USUAL),
    way(0, false, 2048, USUAL),
    way(0, false, USUAL, 2048),
    way(0, false, 512, 512),
    way(0, false, 2048, 2048),
    way(0, true, 512, USUAL),
    way(0, true, 2048, USUAL),
    way(1, false, USUAL, USUAL),
    way(1, true, USUAL, USUAL),
    way(2, false, USUAL, USUAL),
    way(2, true, USUAL, USUAL),
];

const TASKS: [&str; 3] = [
    "find . -xdev -printf '%s %m\\n'",
    "find . -xdev -type f -print0 | xargs -0 cat",
    "HOME=/tmp chroot . python3 -B -c 'import IMPORTS'",
];
const READING: usize = 1;
const STARTING: usize = 2;

/// What each way came to, for each task; nothing for a way that is another one of them there.
type Table = Vec<Option<[Found; 3]>>;

fn measure(session: &Session) -> anyhow::Result<Measured> {
    let (image, imports, rounds) = if session.is_quick() {
        ("python", "asyncio, ssl, sqlite3", 1)
    } else {
        ("numpy", "numpy, scipy.linalg, pandas", ROUNDS)
    };
    integration_tests::images::build(&[image])?;
    for (number, block) in BLOCKS.iter().enumerate() {
        let (store, source) = (store(session, number), format!("oci:/images/{image}"));
        let options = ["--flatten", "--block-size", block, &source];
        session.run("root", &[&["parallax", "--quiet", "--store", &store, "migrate"][..], &options].concat())?;
        let script = format!("cd {store}/parallax/layers; mv *.squash layer.squash");
        session.run("root", &["sh", "-euc", &script])?;
    }
    let disk = table(session, imports, None, rounds)?;
    let slow = table(session, imports, Some(LATENCY), 1)?;
    for number in 0..BLOCKS.len() {
        session.run("root", &["rm", "-rf", &store(session, number)])?;
    }
    let notes = vec![
        text(&format!("layer_reads, {image} as one layer on the local disk"), &disk),
        text(&format!("layer_reads, {image} as one layer, 1 ms before each answer"), &slow),
    ];
    Ok(Measured { figures: figures(&disk, &slow), notes })
}

fn store(session: &Session, number: usize) -> String {
    format!("{}/reads-{number}", session.directory())
}

fn table(session: &Session, imports: &str, latency: Option<Duration>, rounds: usize) -> anyhow::Result<Table> {
    let mut found = vec![[const { Vec::new() }; TASKS.len()]; WAYS.len()];
    for round in 0..rounds {
        for number in turns(round, WAYS.len()) {
            let way = WAYS[number];
            if latency.is_none() && way.source != USUAL {
                continue;
            }
            for (task, found) in TASKS.iter().zip(&mut found[number]) {
                let case = Case {
                    file: format!("{}/parallax/layers/layer.squash", store(session, way.block)).into(),
                    source: latency.map(|latency| (latency, way.source)),
                    direct: way.direct,
                    readahead: way.readahead,
                    task: task.replace("IMPORTS", imports),
                };
                found.push(once(session, &case)?);
            }
        }
    }
    Ok(found.into_iter().map(|tasks| (!tasks[0].is_empty()).then(|| tasks.map(|rounds| median(&rounds)))).collect())
}

fn once(session: &Session, case: &Case) -> anyhow::Result<Found> {
    let case = serde_json::to_string(case)?;
    let done = session.run("root", &[&session.program(), "on-node", "layer-reads", &case])?;
    Ok(serde_json::from_str(&done.stdout)?)
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "of bytes")]
fn median(rounds: &[Found]) -> Found {
    let of = |number: fn(&Found) -> u64| Summary::of(rounds.iter().map(|found| number(found) as f64)).median as u64;
    Found {
        seconds: Summary::of(rounds.iter().map(|found| found.seconds)).median,
        requests: of(|found| found.requests),
        bytes: of(|found| found.bytes),
        cached: of(|found| found.cached),
        grown: of(|found| found.grown),
    }
}

fn figures(disk: &Table, slow: &Table) -> Vec<Figure> {
    let seconds = |table: &Table, way: usize, task: usize| table[way].as_ref().map(|found| found[task].seconds);
    let ratio = |table: &Table, task: usize| {
        Summary::of(seconds(table, 0, task).zip(seconds(table, 1, task)).map(|(one, other)| one / other))
    };
    let same = |way: &&Way| way.block == 0 && !way.direct;
    let best = (0..WAYS.len()).filter(|&way| same(&&WAYS[way])).filter_map(|way| seconds(slow, way, STARTING));
    let best = best.fold(f64::MAX, f64::min);
    vec![
        Figure::new(ROW.id, START, ratio(slow, STARTING), "").at_most(1.0),
        Figure::new("layer_reads_all", READ, ratio(slow, READING), "").at_most(1.0),
        Figure::new("layer_reads_disk", START_DISK, ratio(disk, STARTING), "").at_most(1.0),
        Figure::new("layer_reads_disk_all", READ_DISK, ratio(disk, READING), "").at_most(1.0),
        Figure::new("layer_reads_best", BEST, Summary::of(seconds(slow, 0, STARTING).map(|usual| usual / best)), ""),
    ]
}

fn text(title: &str, table: &Table) -> String {
    let mut text = format!(
        "{title}; for each task the seconds, the requests and bytes at the source; what of the file, and of all, is in memory after the start:\n\n\
         | block | reads | readahead, source's | walk | read all | start | of the file | all |\n|---|---|---|--:|--:|--:|--:|--:|\n"
    );
    for (Way { block, direct, readahead, source }, found) in WAYS.iter().zip(table) {
        let Some(found) = found else { continue };
        let reads = if *direct { "direct" } else { "buffered" };
        let _ = write!(text, "| {} | {reads} | {readahead}, {source} KiB |", BLOCKS[*block]);
        for Found { seconds, requests, bytes, .. } in found {
            let _ = write!(text, " {seconds:.2} s, {requests}, {} MB |", bytes / 1_000_000);
        }
        let start = &found[STARTING];
        let _ = writeln!(text, " {} MB | {} MB |", start.cached / 1_000_000, start.grown / 1_000_000);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffered_and_direct_reads_are_compared() {
        let found = |seconds| Some([0, 1, 2].map(|_| Found { seconds, ..Found::default() }));
        let mut table: Table = vec![None; WAYS.len()];
        (table[0], table[1], table[2]) = (found(3.0), found(6.0), found(1.5));
        let figures = format!("{:?}", figures(&table, &table));
        assert_eq!((figures.matches("value: 0.5").count(), figures.matches("value: 2.0").count()), (4, 1), "{figures}");
        assert_eq!(text("title", &table).lines().count(), 4 + 3);
    }
}
