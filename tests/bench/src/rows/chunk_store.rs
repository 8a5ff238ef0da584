//! What variants of an image add to a chunk store. Needs no node.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use integration_tests::cluster::{Done, repository};
use parallax_chunks::{Algorithm, ChunkId, Cutter, Parameters, split};

use super::Row;
use super::migrate::MKSQUASHFS;
use crate::report::{Figure, Measured};
use crate::session::Session;
use crate::statistics::Summary;

/// The row.
pub(super) const ROW: Row = Row { id: "chunk_store", measure };

const VERSIONS: &str =
    "bytes of chunks that the next versions of numpy, scipy and pandas add / bytes of the image's chunks at first";
const TOGETHER: &str = "the same if a twentieth of the files was edited that are beside each other";
const TIMES: &str = "the same if only the times of all files were changed";
const SCATTERED: &str = "the same if each 20th file was edited";
const SCATTERED_SMALL: &str = "the same of a layer of small files, without the compilers and libraries below it";

/// The image, and the one with other versions.
const IMAGES: [&str; 2] = ["science", "science2"];
/// The layers of both that are below the last, from the top.
const BELOW: [&str; 3] = ["compilers", "python", "debian"];
/// The layer of small files.
const SMALL: &str = "numpy";
/// Which part of the files is edited.
const EACH: usize = 20;
/// What an edit inserts in the middle of a file.
const INSERTED: &[u8] = b"\n# edited here.\n";

/// A way to make a SquashFS file and to cut it: a name, further options of mksquashfs, and the average size of a chunk in KiB.
type Setting = (&'static str, &'static str, u64);
/// Those with the same options are beside each other. The first is the default.
const SETTINGS: [Setting; 6] = [
    ("default", "", 64),
    ("chunks of 32 KiB", "", 32),
    ("chunks of 16 KiB", "", 16),
    ("no fragments", "-no-fragments", 64),
    ("no fragments, chunks of 32 KiB", "-no-fragments", 32),
    ("no fragments, chunks of 16 KiB", "-no-fragments", 16),
];

/// A chunk store for each setting.
#[derive(Debug, Default)]
struct Stores {
    known: [HashMap<ChunkId, u64>; SETTINGS.len()],
}

/// What a variant added to each of them: bytes, and the number of chunks.
type Added = [(u64, usize); SETTINGS.len()];

fn measure(_: &Session) -> anyhow::Result<Measured> {
    integration_tests::images::build(&[IMAGES[0], IMAGES[1], SMALL])?;
    let directory = tempfile::tempdir_in(repository().join("target"))?;
    let directory = directory.path();
    let mut stores = Stores::default();
    copy(directory, &[&[IMAGES[0]][..], &BELOW].concat())?;
    let first = stores.add(directory)?;
    let mut variants: Vec<(&str, Added)> = vec![("at first", first)];
    let files = list(directory)?;
    for path in files.iter().skip(files.len() / 2).take(files.len() / EACH) {
        edit(path)?;
    }
    variants.push(("edited beside each other", stores.add(directory)?));
    for path in &files {
        let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        File::open(path)?.set_times(times)?;
    }
    variants.push(("other times", stores.add(directory)?));
    for path in files.iter().step_by(EACH) {
        edit(path)?;
    }
    variants.push(("each 20th edited", stores.add(directory)?));
    copy(directory, &[&[IMAGES[1]][..], &BELOW].concat())?;
    variants.push(("next versions", stores.add(directory)?));

    let mut stores = Stores::default();
    copy(directory, &[SMALL])?;
    let small = stores.add(directory)?;
    let small_files = list(directory)?;
    for path in small_files.iter().step_by(EACH) {
        edit(path)?;
    }
    let small_edited = stores.add(directory)?;

    let part = |variant: usize| Summary::of([megabytes(variants[variant].1[0].0) / megabytes(first[0].0)]);
    let figures = vec![
        Figure::new(ROW.id, VERSIONS, part(4), "").at_most(0.2),
        Figure::new("chunk_store_together", TOGETHER, part(1), "").at_most(0.35),
        Figure::new("chunk_store_times", TIMES, part(2), "").at_most(0.01),
        Figure::new("chunk_store_scattered", SCATTERED, part(3), "").at_most(0.35),
        Figure::new(
            "chunk_store_scattered_small",
            SCATTERED_SMALL,
            Summary::of([megabytes(small_edited[0].0) / megabytes(small[0].0)]),
            "",
        ),
    ];
    let small = [("at first", small), ("each 20th edited", small_edited)];
    let notes = vec![
        table(&format!("chunk_store: {}, one layer, {} files", IMAGES[0], files.len()), &variants),
        table(&format!("chunk_store: the layer of {SMALL}, {} files", small_files.len()), &small),
    ];
    Ok(Measured { figures, notes })
}

fn table(title: &str, variants: &[(&str, Added)]) -> String {
    let mut text = format!("{title}; MB of chunks that are added, and their number:\n\n| |");
    for (name, _) in variants {
        let _ = write!(text, " {name} |");
    }
    let _ = writeln!(text, "\n|---|{}", "--:|".repeat(variants.len()));
    for (number, (name, _, _)) in SETTINGS.iter().enumerate() {
        let _ = write!(text, "| {name} |");
        for (_, added) in variants {
            let (bytes, chunks) = added[number];
            let _ = write!(text, " {:.1} MB, {chunks} |", megabytes(bytes));
        }
        text.push('\n');
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "an image is not so large")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Makes a copy of layers over each other, the topmost first: the directory `tree`.
fn copy(directory: &Path, layers: &[&str]) -> anyhow::Result<()> {
    let place = repository().join("target/image-layers");
    let trees: Vec<String> = layers.iter().map(|layer| place.join(layer).join("tree").display().to_string()).collect();
    // A lower layer alone is no overlay.
    let script = r#"rm -rf tree empty; mkdir tree empty
        mount -t overlay overlay -o "lowerdir=$0:empty" tree; cp -a --one-file-system tree copied; umount tree; rmdir tree empty; mv copied tree"#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "bash", "-euc", script, &trees.join(":")]).current_dir(directory);
    Done::from(command.output()?).success().map(drop)
}

/// The regular files of the tree, sorted.
fn list(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (mut files, mut left) = (Vec::new(), vec![directory.join("tree")]);
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

fn edit(path: &Path) -> anyhow::Result<()> {
    let mut content = fs::read(path)?;
    let middle = content.len() / 2;
    content.splice(middle..middle, INSERTED.iter().copied());
    fs::write(path, content).with_context(|| path.display().to_string())
}

impl Stores {
    /// Makes a SquashFS file of the tree, as a migration does, and cuts it into chunks, with each setting.
    fn add(&mut self, directory: &Path) -> anyhow::Result<Added> {
        let mut all = Added::default();
        let mut made_with = None;
        for (((_, options, average), known), added) in SETTINGS.iter().zip(&mut self.known).zip(&mut all) {
            if made_with != Some(options) {
                let text = format!("rm -f out; tar --sort=name -C tree -cf - . | {MKSQUASHFS} {options}");
                let mut made = Command::new("bash");
                made.args(["-euo", "pipefail", "-c", &text]).current_dir(directory);
                Done::from(made.output()?).success()?;
                made_with = Some(options);
            }
            let average = average << 10;
            let cutter = Cutter::new(Parameters::new(average / 4, average, average * 4)?);
            let file = File::open(directory.join("out"))?;
            let chunks = split(file, cutter, Algorithm::Sha512_256, 2, |_, _| anyhow::Ok(()))?;
            for (id, size) in chunks {
                if known.insert(id, size).is_none() {
                    *added = (added.0 + size, added.1 + 1);
                }
            }
        }
        Ok(all)
    }
}
