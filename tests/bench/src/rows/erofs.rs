//! The formats of layers' files: what they cost to make, and how fast they are read, against each other, against the unpacked directory
//! and against squashfuse with fuse-overlayfs.

use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Context as _, ensure};

use super::Row;
use crate::report::{Figure, Measured};
use crate::session::Session;
use crate::statistics::Summary;

/// The row.
pub(super) const ROW: Row = Row { id: "erofs_vs_squashfs", measure };

const WHAT: &str = "cold start of Python with numpy, scipy and pandas from EROFS / from SquashFS, both zstd:3";
const WALK: &str = "cold walk of an image in EROFS / in SquashFS, both zstd:3";
const MIGRATION: &str = "time of a migration to EROFS / to SquashFS, both zstd:3";
const SIZE: &str = "size in EROFS / in SquashFS, both zstd:3";
const METADATA: &str = "cold walk of an image in SquashFS / of the unpacked directory";
const METADATA_EROFS: &str = "cold walk of an image in EROFS / of the unpacked directory";
const STREAM: &str = "cold reading of all files in SquashFS / of the unpacked directory";
const STREAM_EROFS: &str = "cold reading of all files in EROFS / of the unpacked directory";

/// The guest that has erofs-utils that are new enough.
const GUEST: &str = "sid";

/// A way to have the image on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    name: &'static str,
    /// How the node mounts it.
    kind: &'static str,
    /// Format and compression of its file; the directory is made of the first.
    file: (&'static str, &'static str),
}

const WAYS: [Way; 8] = [
    Way { name: "SquashFS zstd:3", kind: "squashfs", file: ("squashfs", "zstd:3") },
    Way { name: "EROFS zstd:3", kind: "erofs", file: ("erofs", "zstd:3") },
    Way { name: "unpacked directory", kind: "directory", file: ("squashfs", "zstd:3") },
    Way { name: "squashfuse and fuse-overlayfs", kind: "fuse", file: ("squashfs", "zstd:3") },
    Way { name: "SquashFS lz4", kind: "squashfs", file: ("squashfs", "lz4") },
    Way { name: "EROFS lz4", kind: "erofs", file: ("erofs", "lz4") },
    Way { name: "SquashFS none", kind: "squashfs", file: ("squashfs", "none") },
    Way { name: "EROFS none", kind: "erofs", file: ("erofs", "none") },
];
const SQUASHFS: usize = 0;
const EROFS: usize = 1;
const DIRECTORY: usize = 2;

/// What is done in the image: a name, and a command in its root directory.
const TASKS: [(&str, &str); 3] = [
    ("walk", "find . -xdev -printf '%s %m\\n'"),
    ("read all", "find . -xdev -type f -print0 | xargs -0 cat"),
    ("start", "HOME=/tmp chroot . python3 -B -c 'import IMPORTS'"),
];
const WALKING: usize = 0;
const READING: usize = 1;
const STARTING: usize = 2;

/// Prints the nanoseconds of a task, cold and then warm, in a mount that nobody else sees. `mount` would make a loop device of an EROFS file, the benchmark does not.
const RUN: &str = r#"
    kind=$0 file=$1 task=$2 program=$3
    # Of this machine: nothing else tells the kernel to forget the names in a directory.
    sync; echo 3 >/proc/sys/vm/drop_caches
    begin=$(date +%s%N)
    case $kind in
        squashfs)
            device=$(losetup --find --show --read-only $file)
            mount -t squashfs -o ro $device /mnt; losetup --detach $device ;;
        erofs) $program on-node mount-erofs $file /mnt ;;
        directory) mount --bind $file /mnt ;;
        fuse)
            mkdir /tmp/lower; mount -t tmpfs none /tmp/lower; mkdir /tmp/lower/files
            squashfuse_ll $file /tmp/lower/files
            fuse-overlayfs -o lowerdir=/tmp/lower/files /mnt
            trap 'umount /mnt /tmp/lower/files /tmp/lower; rmdir /tmp/lower' EXIT ;;
    esac
    [ $kind = directory ] || [ ! -d /mnt/tmp ] || mount -t tmpfs none /mnt/tmp
    cd /mnt
    mounted=$(date +%s%N)
    seconds() { from=$(date +%s%N); sh -c "$task" >/dev/null; echo $(($(date +%s%N) - from)); }
    cold=$(seconds); warm=$(seconds)
    cd /; umount /mnt/tmp 2>/dev/null || :
    echo $((mounted - begin)) $cold $warm
"#;

/// What one way came to.
#[derive(Debug, Clone, Default)]
struct Line {
    /// Seconds of the migration.
    migration: f64,
    /// Bytes.
    size: f64,
    /// Seconds of each task, cold and warm.
    tasks: Vec<[f64; 2]>,
}

fn measure(session: &Session) -> anyhow::Result<Measured> {
    let (image, imports, rounds) = if session.is_quick() {
        ("python", "asyncio, ssl, sqlite3", 1)
    } else {
        ("numpy", "numpy, scipy.linalg, pandas", 3)
    };
    integration_tests::images::build(&[image])?;
    session.cluster().start_guest(GUEST)?;
    let directory = session.directory();
    let mut lines = Vec::new();
    for (number, way) in WAYS.iter().enumerate() {
        let (migration, size) =
            if way.kind == way.file.0 { migrate(session, &directory, image, number)? } else { (0.0, 0.0) };
        lines.push(Line { migration, size, tasks: Vec::new() });
    }
    let unpack = format!(
        "mount -o loop,ro {} /mnt; cp -a /mnt {directory}/erofs-tree; umount /mnt; sync",
        file(&directory, SQUASHFS)
    );
    session.run("root", &["unshare", "--mount", "sh", "-euc", &unpack])?;
    for (number, way) in WAYS.iter().enumerate() {
        let rounds = if number <= DIRECTORY { rounds } else { 1 };
        let first = WAYS.iter().position(|other| other.file == way.file).context("no file")?;
        let path = if number == DIRECTORY { format!("{directory}/erofs-tree") } else { file(&directory, first) };
        lines[number].tasks = TASKS
            .iter()
            .map(|(_, task)| run(session, way, &path, &task.replace("IMPORTS", imports), rounds))
            .collect::<anyhow::Result<_>>()?;
    }
    session.run("root", &["sh", "-euc", &format!("rm -rf {directory}/erofs-*")])?;
    Ok(Measured { figures: figures(&lines), notes: vec![table(image, &lines)] })
}

fn store(directory: &str, number: usize) -> String {
    format!("{directory}/erofs-{number}")
}

fn file(directory: &str, number: usize) -> String {
    let format = WAYS[number].file.0;
    let extension = if format == "erofs" { "erofs" } else { "squash" };
    format!("{}/layer.{extension}", store(directory, number))
}

/// Migrates the image as one layer; returns the seconds and the file's size.
fn migrate(session: &Session, directory: &str, image: &str, number: usize) -> anyhow::Result<(f64, f64)> {
    let ((format, compression), store) = (WAYS[number].file, store(directory, number));
    let source = format!("oci:/images/{image}");
    let line = [
        "parallax",
        "--quiet",
        "--store",
        &store,
        "migrate",
        "--flatten",
        "--format",
        format,
        "--compression",
        compression,
        &source,
    ];
    let begin = Instant::now();
    session.cluster().run(GUEST, "root", &line)?.success()?;
    let seconds = begin.elapsed().as_secs_f64();
    let file = file(directory, number);
    let script = format!(
        "mv {store}/parallax/layers/*.{} {file}; stat --format=%s {file}",
        file.rsplit_once('.').context("no extension")?.1
    );
    let size = session.run("root", &["sh", "-euc", &script])?.stdout.trim().parse()?;
    Ok((seconds, size))
}

/// The median seconds of a task, cold and warm.
fn run(session: &Session, way: &Way, path: &str, task: &str, rounds: usize) -> anyhow::Result<[f64; 2]> {
    let mut samples = Vec::new();
    for _ in 0..rounds {
        let done = session
            .run("root", &["unshare", "--mount", "bash", "-euc", RUN, way.kind, path, task, &session.program()])?;
        let numbers: Vec<f64> = done.stdout.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [mount, cold, warm] = numbers[..] else { anyhow::bail!("the node answered {:?}", done.stdout) };
        // A mount is part of what a first step waits for.
        samples.push([(mount + cold) / 1e9, warm / 1e9]);
    }
    ensure!(!samples.is_empty(), "nothing was measured");
    Ok([0, 1].map(|index| Summary::of(samples.iter().map(|sample| sample[index])).median))
}

fn figures(lines: &[Line]) -> Vec<Figure> {
    let cold =
        |way: usize, other: usize, task: usize| Summary::of([lines[way].tasks[task][0] / lines[other].tasks[task][0]]);
    let ratio = |of: fn(&Line) -> f64| Summary::of([of(&lines[EROFS]) / of(&lines[SQUASHFS])]);
    vec![
        Figure::new(ROW.id, WHAT, cold(EROFS, SQUASHFS, STARTING), ""),
        Figure::new("erofs_walk", WALK, cold(EROFS, SQUASHFS, WALKING), ""),
        Figure::new("erofs_migration", MIGRATION, ratio(|line| line.migration), ""),
        Figure::new("erofs_size", SIZE, ratio(|line| line.size), ""),
        Figure::new("cold_metadata_vs_dir", METADATA, cold(SQUASHFS, DIRECTORY, WALKING), ""),
        Figure::new("cold_metadata_vs_dir_erofs", METADATA_EROFS, cold(EROFS, DIRECTORY, WALKING), ""),
        Figure::new("stream_read", STREAM, cold(SQUASHFS, DIRECTORY, READING), ""),
        Figure::new("stream_read_erofs", STREAM_EROFS, cold(EROFS, DIRECTORY, READING), ""),
    ]
}

fn table(image: &str, lines: &[Line]) -> String {
    let mut text = format!("formats of {image}, as one layer; seconds, cold / warm:\n\n| | migration | size |");
    for (name, _) in TASKS {
        let _ = write!(text, " {name} |");
    }
    text.push_str("\n|---|--:|--:|--:|--:|--:|\n");
    for (way, line) in WAYS.iter().zip(lines) {
        let made = if line.size > 0.0 {
            format!("{:.1} s | {:.0} MB", line.migration, line.size / 1e6)
        } else {
            " | ".to_owned()
        };
        let _ = write!(text, "| {} | {made} |", way.name);
        for [cold, warm] in &line.tasks {
            let _ = write!(text, " {cold:.2} / {warm:.2} |");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_has_its_row_and_the_formats_are_compared() {
        let line = |migration, size, cold| Line { migration, size, tasks: vec![[cold, 1.0]; TASKS.len()] };
        let lines: Vec<Line> =
            (0..WAYS.len()).map(|way| line(1.0 + way as f64, 10e6, 4.0 / (1.0 + way as f64))).collect();
        let text = format!("{:?}", figures(&lines));
        assert!(text.contains("value: 2.0") && text.contains("value: 0.5"), "{text}");
        let table = table("title", &lines);
        assert_eq!(table.lines().count(), 4 + WAYS.len());
        assert!(table.contains("| EROFS zstd:3 | 2.0 s | 10 MB | 2.00 / 1.00 |"), "{table}");
    }
}
