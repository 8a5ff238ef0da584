//! What a metadata image takes in the store, and what its mount over the directory of the files costs.

use anyhow::Context as _;
use serde_json::Value;

use super::Row;
use crate::metadata_mounts;
use crate::report::{Figure, Measured};
use crate::session::Session;
use crate::statistics::Summary;

/// The row.
pub(super) const ROW: Row = Row { id: "metadata_image", measure };

const SIZE: &str = "bytes that a metadata image takes for each file and directory of the image";
const MOUNT: &str = "mount of a metadata image over the directory of the files";
const FIND: &str = "`find` in an unpacked image, by its metadata image / in the directory as it is, in memory";
const NAMES: &str = "list all names of an unpacked image, by its metadata image / in the directory as it is, in memory";
const ATTRIBUTES: &str = "the same, with a look at each file";
const CONTENTS: &str = "the same, with all files read";

const IMAGE: &str = "numpy";
/// Stands for an image id.
const ID: &str = "abababababababababababababababababababababababababababababababab";
const ROUNDS: usize = 20;

/// A repository with the unpacked image, and a store with its metadata image.
const MAKE: &str = r#"
    cd $0; umoci unpack --image /images/$1:$(umoci ls --layout /images/$1) bundle
    mkdir -p repository/.flat/ab repository/registry.example.org/library
    mv bundle/rootfs repository/.flat/ab/$2; rm -r bundle
    ln -s ../../.flat/ab/$2 repository/registry.example.org/library/$1:1
    parallax --quiet --store $0/store import --metadata=always --unpacked $0/repository 2>/dev/null
    find repository/.flat/ab/$2 | wc -l
    parallax --store $0/store inspect --json registry.example.org/library/$1:1
"#;

fn measure(session: &Session) -> anyhow::Result<Measured> {
    integration_tests::images::build(&[IMAGE])?;
    let directory = format!("{}/metadata", session.directory());
    session.run("root", &["mkdir", &directory])?;
    let measured = in_directory(session, &directory);
    session.run("root", &["rm", "-rf", &directory])?;
    measured
}

fn in_directory(session: &Session, directory: &str) -> anyhow::Result<Measured> {
    let made = session.run("root", &["bash", "-euc", MAKE, directory, IMAGE, ID])?.stdout;
    let (entries, report) = made.split_once('\n').context("no number of files")?;
    let report: Value = serde_json::from_str(report)?;
    let layer = &report["layers"][0];
    let (file, stored) = (layer["file"].as_str().context("no file")?, layer["stored"].as_f64().context("no size")?);
    let tree = format!("{directory}/repository/.flat/ab/{ID}");
    let rounds = if session.is_quick() { "3".to_owned() } else { ROUNDS.to_string() };
    let done = session.run("root", &[&session.program(), "on-node", "metadata", file, &tree, &rounds])?;
    let mounts: metadata_mounts::Measured = serde_json::from_str(&done.stdout)?;
    let entries: f64 = entries.trim().parse()?;
    let figures = vec![
        Figure::new(ROW.id, SIZE, Summary::of([stored / entries]), "B").at_most(40.0),
        Figure::new("metadata_mount", MOUNT, Summary::of(mounts.mounts), "ms").at_most(1.0),
        Figure::new("metadata_find", FIND, Summary::of(mounts.find), "").at_most(1.6),
        Figure::new("metadata_names", NAMES, Summary::of(mounts.names), ""),
        Figure::new("metadata_stat", ATTRIBUTES, Summary::of(mounts.attributes), ""),
        Figure::new("metadata_read", CONTENTS, Summary::of(mounts.contents), ""),
    ];
    let note = format!(
        "metadata_image: {IMAGE}, {entries:.0} files and directories, a metadata image of {:.2} MB.",
        stored / 1e6
    );
    Ok(Measured { figures, notes: vec![note] })
}
