//! What the way of compression costs and gives: the time of a migration, the size, and a cold start.

use std::fmt::Write as _;

use anyhow::ensure;

use super::Row;
use crate::report::{Figure, Measured};
use crate::sampler::{Candidate, Sample};
use crate::session::Session;
use crate::statistics::Summary;

/// The row.
pub(super) const ROW: Row = Row { id: "compression", measure };

const START: &str = "cold start from the default (zstd:3, 128KiB): processor time, and what is read at 100 MB/s / the least of all ways";
const SIZE: &str = "size of the default / the smallest of all ways";
const MIGRATION: &str = "processor time of a migration with the default / the least of all ways";

/// What a node gets of a shared file system when many start at once, in bytes a second.
const BANDWIDTH: f64 = 100e6;

/// An image as one layer, and what is started in it.
struct Subject {
    image: &'static str,
    /// Imported by Python, from a file system of which nothing is in memory.
    modules: &'static str,
    methods: &'static [&'static str],
    /// How often what takes seconds is done.
    rounds: usize,
}

/// The small one in all ways, and the big one in those that do not take minutes.
const SUBJECTS: [Subject; 2] = [
    Subject {
        image: "python",
        modules: "asyncio, ssl, sqlite3, http.client, email.mime.multipart, xml.dom.minidom, unittest.mock, ctypes, \
                  multiprocessing.pool, decimal, logging.config, urllib.request, argparse, zipfile, tarfile, csv",
        methods: &["zstd:3", "none", "lz4", "zstd:1", "gzip", "zstd:9", "zstd:15"],
        rounds: 3,
    },
    Subject {
        image: "numpy",
        modules: "numpy, scipy.linalg, scipy.sparse, pandas, matplotlib.pyplot",
        methods: &["zstd:3", "none", "lz4", "zstd:1"],
        rounds: 1,
    },
];
const BLOCKS: [&str; 3] = ["128KiB", "256KiB", "1MiB"];
/// Smaller ones, of the default's method.
const SMALL_BLOCKS: [(&str, &str); 2] = [("zstd:3", "64KiB"), ("zstd:3", "32KiB")];
/// What takes so long that once tells enough.
const SLOW: [&str; 3] = ["gzip", "zstd:9", "zstd:15"];
/// How often a start is measured.
const STARTS: usize = 3;

/// What one way came to. The first of all is the default.
struct Line {
    method: &'static str,
    block: &'static str,
    /// The time of a migration / the default's in the same round.
    migration: f64,
    /// Processor time of a migration in seconds.
    work: f64,
    /// Bytes.
    size: f64,
    /// A start by the clock, in seconds.
    start: f64,
    /// Its processor time in seconds.
    start_work: f64,
    /// What SquashFS reads of the file for it, in bytes.
    read: f64,
}

impl Line {
    /// How long the start takes where every byte comes over a network.
    fn remote_start(&self) -> f64 {
        self.start_work + self.read / BANDWIDTH
    }
}

fn measure(session: &Session) -> anyhow::Result<Measured> {
    let mut measured = Measured::default();
    for subject in &SUBJECTS {
        integration_tests::images::build(&[subject.image])?;
        let lines = lines(session, subject)?;
        measured.notes.push(table(subject.image, &lines));
        if measured.figures.is_empty() {
            measured.figures = figures(&lines);
        }
    }
    Ok(measured)
}

fn figures(lines: &[Line]) -> Vec<Figure> {
    let ratio = |of: fn(&Line) -> f64| {
        let best = lines.iter().map(of).fold(f64::MAX, f64::min);
        Summary::of(lines.first().map(|default| of(default) / best))
    };
    vec![
        Figure::new(ROW.id, START, ratio(Line::remote_start), ""),
        Figure::new("compression_size", SIZE, ratio(|line| line.size), ""),
        Figure::new("compression_migration", MIGRATION, ratio(|line| line.work), ""),
    ]
}

fn table(image: &str, lines: &[Line]) -> String {
    let mut text = format!(
        "compression of {image}:\n\n\
         | compression | block | migration | its work | size | cold start | its work | read | work + read at 100 MB/s |\n\
         |---|---|--:|--:|--:|--:|--:|--:|--:|\n"
    );
    for line in lines {
        let Line { method, block, migration, work, size, start, start_work, read } = line;
        let (size, read, remote) = (size / 1e6, read / 1e6, line.remote_start());
        let _ = writeln!(
            text,
            "| {method} | {block} | {migration:.2} × | {work:.2} s | {size:.1} MB | {start:.2} s | {start_work:.2} s | \
             {read:.1} MB | {remote:.2} s |"
        );
    }
    text
}

/// What each way comes to.
fn lines(session: &Session, subject: &Subject) -> anyhow::Result<Vec<Line>> {
    let all_blocks = subject.methods.iter().flat_map(|method| BLOCKS.map(|block| (*method, block)));
    let ways: Vec<(&str, &str)> = all_blocks.chain(SMALL_BLOCKS).collect();
    let is_slow = |way: &usize| SLOW.contains(&ways[*way].0);
    let quick: Vec<usize> = (0..ways.len()).filter(|way| !is_slow(way)).collect();
    // With the default to compare with. It has been read by then.
    let slow: Vec<usize> = (0..ways.len()).filter(|way| *way == 0 || is_slow(way)).collect();
    let directory = session.directory();

    let mut migrations = vec![(0.0, 0.0); ways.len()];
    for (group, rounds) in [(&slow, 1), (&quick, subject.rounds)] {
        let commands = group.iter().map(|&way| migrate(&directory, subject, way, ways[way])).collect();
        let samples = session.sample_as_root(commands, 0, rounds)?;
        for (column, &way) in group.iter().enumerate() {
            let ratio = median(&samples.rounds, |round| seconds(&round[column]) / seconds(&round[0]));
            migrations[way] = (ratio, median(&samples.rounds, |round| work(&round[column])));
        }
    }
    let starts = (0..ways.len()).map(|way| start(&directory, subject, way)).collect();
    let started = session.sample_as_root(starts, 0, STARTS)?;
    session.run("root", &["sh", "-euc", &format!("rm -r {directory}/{}-*", subject.image)])?;
    let line = |(way, &(method, block)): (usize, &(&'static str, &'static str))| {
        let (migration, migration_work) = migrations[way];
        let start = median(&started.rounds, |round| seconds(&round[way]));
        let start_work = median(&started.rounds, |round| work(&round[way]));
        let [size, read] = numbers(started.rounds.first().map_or("", |round| &round[way].stderr))?;
        Ok(Line { method, block, migration, work: migration_work, size, start, start_work, read })
    };
    ways.iter().enumerate().map(line).collect()
}

fn migrate(directory: &str, subject: &Subject, way: usize, (method, block): (&str, &str)) -> Candidate {
    let image = subject.image;
    let store = format!("{directory}/{image}-{way}");
    let options = format!("--flatten --compression {method} --block-size {block}");
    Candidate::new(&format!("parallax --quiet --store {store} migrate oci:/images/{image} {options}"))
        .after(&format!("rm -rf {store}"))
}

/// A start from the file of a way, of which nothing is in memory: neither what the file holds, because it is mounted anew,
/// nor the file itself, which `dd` lets the kernel forget. It writes the file's size, and how much of it was read.
fn start(directory: &str, subject: &Subject, way: usize) -> Candidate {
    let files = format!("{directory}/{}-{way}/parallax/layers/*.squash", subject.image);
    let script = format!(
        "file=$(echo {files}); device=$(losetup --find --show --read-only $file)
         mount -t squashfs -o ro $device /mnt; losetup --detach $device; mount -t tmpfs none /mnt/tmp
         sectors() {{ read -r _ _ sectors _ </sys/block/${{device#/dev/}}/stat; echo $sectors; }}
         before=$(sectors)
         HOME=/tmp chroot /mnt python3 -B -c 'import {}'
         echo $(stat --format=%s $file) $((512 * ($(sectors) - before))) >&2",
        subject.modules
    );
    Candidate {
        command: ["unshare", "--mount", "sh", "-euc", &script].map(ToOwned::to_owned).into(),
        before: ["sh", "-euc", &format!("for file in {files}; do dd if=$file iflag=nocache count=0 status=none; done")]
            .map(ToOwned::to_owned)
            .into(),
        ..Candidate::new("")
    }
}

/// The two numbers in the last line.
fn numbers(said: &str) -> anyhow::Result<[f64; 2]> {
    let numbers: Vec<f64> =
        said.lines().last().unwrap_or_default().split(' ').filter_map(|word| word.parse().ok()).collect();
    let [size, read] = numbers[..] else { anyhow::bail!("the node answered {said:?}") };
    ensure!(read > 0.0, "nothing was read of a file that should not be in memory");
    Ok([size, read])
}

fn seconds(sample: &Sample) -> f64 {
    sample.elapsed.as_secs_f64()
}

fn work(sample: &Sample) -> f64 {
    sample.processor.unwrap_or_default().as_secs_f64()
}

fn median(rounds: &[Vec<Sample>], of: impl Fn(&Vec<Sample>) -> f64) -> f64 {
    Summary::of(rounds.iter().map(of)).median
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_tells_its_numbers_last() {
        assert_eq!(numbers("a warning 1 2\n100 7\n").unwrap(), [100.0, 7.0]);
        assert!(numbers("100 0\n").is_err());
        assert!(numbers("").is_err());
    }

    #[test]
    fn the_default_is_compared_with_the_best_in_each_respect() {
        let line = |method, work, size, start_work, read| Line {
            method,
            block: "",
            migration: work,
            work,
            size,
            start: 3.0,
            start_work,
            read,
        };
        let lines = [line("default", 1.0, 30.0, 0.5, 10e6), line("other", 0.5, 60.0, 0.4, 40e6)];
        let text = format!("{:?}", figures(&lines));
        for value in ["value: 1.0", "value: 2.0"] {
            assert!(text.contains(value), "{text}");
        }
        assert!(table("title", &lines).contains("| 0.50 s | 0.0 MB | 3.00 s | 0.40 s | 40.0 MB | 0.80 s |"));
    }
}
