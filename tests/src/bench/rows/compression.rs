//! What the way of compression costs and gives: the time of a migration, the size, and a cold start.

use std::fmt::Write as _;

use anyhow::Context as _;

use super::Row;
use crate::bench::report::{Figure, Measured};
use crate::bench::sampler::Candidate;
use crate::bench::session::Session;
use crate::bench::statistics::Summary;

/// The row.
pub const ROW: Row = Row { id: "compression", measure };

const WHAT: &str = "cold start of the default (zstd:3, 128KiB) / the fastest of all";

/// What is compared. The default is first.
const WAYS: [(&str, &str); 11] = [
    ("zstd:3", "128KiB"),
    ("none", "128KiB"),
    ("lz4", "128KiB"),
    ("gzip", "128KiB"),
    ("zstd:1", "128KiB"),
    ("zstd:6", "128KiB"),
    ("zstd:12", "128KiB"),
    ("zstd:3", "32KiB"),
    ("zstd:3", "64KiB"),
    ("zstd:3", "256KiB"),
    ("zstd:3", "1MiB"),
];
const ROUNDS: usize = 3;

/// Python's scientific libraries, read from a file system of which nothing is in memory: some thousand files, most of them
/// small and a few large.
const START: &str = "import numpy, scipy.linalg, scipy.sparse, pandas, matplotlib.pyplot";

fn measure(session: &Session) -> anyhow::Result<Measured> {
    crate::images::build(&["numpy"])?;
    let directory = session.directory();
    let shell = |text: String| vec!["sh".to_owned(), "-euc".to_owned(), format!("cd {directory}; {text}")];
    let store = |number: usize| format!("compression-{number}");
    let migrate = |number: usize| {
        let (method, block) = WAYS[number];
        let store = store(number);
        Candidate {
            command: shell(format!(
                "parallax --quiet --store {store} migrate --flatten oci:/images/numpy --compression {method} --block-size {block}"
            )),
            before: shell(format!("rm -rf {store}")),
            ..Candidate::new("")
        }
    };
    let start = |number: usize| Candidate {
        command: shell(format!(
            "exec unshare --mount sh -euc 'mount -t squashfs -o loop,ro {}/parallax/layers/*.squash /mnt; \
             mount -t tmpfs none /mnt/tmp; HOME=/tmp exec chroot /mnt python3 -B -c \"{START}\"'",
            store(number)
        )),
        before: shell("sync; echo 3 >/proc/sys/vm/drop_caches".to_owned()),
        ..Candidate::new("")
    };
    let all = || 0..WAYS.len();
    let migrated = session.sample_as_root(all().map(migrate).collect(), ROUNDS)?;
    let started = session.sample_as_root(all().map(start).collect(), ROUNDS)?;
    let sizes = session.run(
        "root",
        &shell("stat --printf='%s\\n' $(ls -v -d compression-*/parallax/layers/*.squash)".to_owned())
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>(),
    )?;
    let sizes: Vec<f64> = sizes.stdout.lines().map(str::parse).collect::<Result<_, _>>().context("sizes")?;

    let seconds = |samples: &crate::bench::sampler::Samples, column: usize| {
        Summary::of(samples.rounds.iter().map(|round| round[column].elapsed.as_secs_f64())).median
    };
    let mut table = "| compression | block | migration | size | cold start |\n|---|---|--:|--:|--:|\n".to_owned();
    for number in all() {
        let (method, block) = WAYS[number];
        let (migration, start) = (seconds(&migrated, number), seconds(&started, number));
        let size = sizes.get(number).context("a size is missing")? / 1e6;
        let _ = writeln!(table, "| {method} | {block} | {migration:.1} s | {size:.0} MB | {start:.2} s |");
    }
    let ratios = started.rounds.iter().map(|round| {
        let times: Vec<f64> = round.iter().map(|sample| sample.elapsed.as_secs_f64()).collect();
        times[0] / times.iter().copied().fold(f64::MAX, f64::min)
    });
    Ok(Measured { figures: vec![Figure::new(ROW.id, WHAT, Summary::of(ratios), "")], notes: vec![table] })
}
