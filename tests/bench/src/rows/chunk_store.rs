//! What variants of an image add to a chunk store. Needs no node.

use std::collections::HashMap;
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

const SCATTERED: &str =
    "bytes of chunks that the image adds if each 20th file was edited / bytes of its chunks at first";
const TOGETHER: &str = "the same if a twentieth of the files was edited that are beside each other";
const TIMES: &str = "the same if only the times of all files were changed";

const IMAGE: &str = "numpy";
/// Which part of the files is edited.
const EACH: usize = 20;
/// What an edit inserts in the middle of a file.
const INSERTED: &[u8] = b"\n# edited here.\n";

fn measure(_: &Session) -> anyhow::Result<Measured> {
    integration_tests::images::build(&[IMAGE])?;
    let directory = tempfile::tempdir_in(repository().join("target"))?;
    let tree = directory.path().join("tree");
    let original = repository().join("target/image-layers").join(IMAGE).join("tree");
    Done::from(Command::new("cp").arg("-a").arg(original).arg(&tree).output()?).success()?;
    let mut files = Vec::new();
    list(&tree, &mut files)?;
    files.sort();
    let mut known = HashMap::new();
    let first = add(directory.path(), &mut known)?;
    for path in files.iter().skip(files.len() / 2).take(files.len() / EACH) {
        edit(path)?;
    }
    let together = add(directory.path(), &mut known)?;
    for path in &files {
        let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        File::open(path)?.set_times(times)?;
    }
    let times = add(directory.path(), &mut known)?;
    for path in files.iter().step_by(EACH) {
        edit(path)?;
    }
    let scattered = add(directory.path(), &mut known)?;
    let part = |added: u64| Summary::of([megabytes(added) / megabytes(first)]);
    Ok(Measured {
        figures: vec![
            Figure::new(ROW.id, SCATTERED, part(scattered), "").at_most(0.35),
            Figure::new("chunk_store_together", TOGETHER, part(together), "").at_most(0.35),
            Figure::new("chunk_store_times", TIMES, part(times), "").at_most(0.01),
        ],
        notes: vec![format!(
            "chunk_store: the layer of {IMAGE}, {} files: {:.1} MB of chunks; files beside each other edited {:.1} MB more; other times {:.2} MB more; each \
             {EACH}th file edited {:.1} MB more.",
            files.len(),
            megabytes(first),
            megabytes(together),
            megabytes(times),
            megabytes(scattered)
        )],
    })
}

#[expect(clippy::cast_precision_loss, reason = "an image is not so large")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Adds the regular files below a directory.
fn list(directory: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            list(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn edit(path: &Path) -> anyhow::Result<()> {
    let mut content = fs::read(path)?;
    let middle = content.len() / 2;
    content.splice(middle..middle, INSERTED.iter().copied());
    fs::write(path, content).with_context(|| path.display().to_string())
}

/// Makes a SquashFS file of the tree, as a migration does, and cuts it into chunks. Returns the bytes of those that were not known.
fn add(directory: &Path, known: &mut HashMap<ChunkId, u64>) -> anyhow::Result<u64> {
    let text = format!("rm -f out; tar --sort=name -C tree -cf - . | {MKSQUASHFS}");
    let mut made = Command::new("bash");
    made.args(["-euo", "pipefail", "-c", &text]).current_dir(directory);
    Done::from(made.output()?).success()?;
    let file = File::open(directory.join("out"))?;
    let cutter = Cutter::new(Parameters::default());
    let chunks = split(file, cutter, Algorithm::Sha512_256, 2, |_, _| anyhow::Ok(()))?;
    let new = chunks.into_iter().filter(|(id, size)| known.insert(*id, *size).is_none());
    Ok(new.map(|(_, size)| size).sum())
}
