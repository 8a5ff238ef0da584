//! What memory it takes to bring images of several sizes into a store: that of every process that has a part in it.

use std::fmt::Write as _;

use anyhow::Context as _;

use super::Row;
use crate::big_image;
use crate::memory::Peak;
use crate::report::{Figure, Measured};
use crate::session::Session;
use crate::statistics::Summary;

/// The row.
pub(super) const ROW: Row = Row { id: "migrate_rss", measure };

const FLAT: &str = "peak memory of all processes of `parallax migrate`, for an image of 2 GB / of 500 MB, one layer of 4,000 files each, from skopeo";
const BOUNDED: &str = "the same with `--max-memory 100MB`, for an image of 2 GB / of 100 MB";
const MOST: &str = "what a migration reckons with for a layer, that is all processes but skopeo, for 2 GB";

/// Names, and the number and average size of the layer's files. mksquashfs keeps something of each file until its end.
const IMAGES: [(&str, usize, usize); 4] = [
    ("100 MB, 4,000 files", 4_000, 25_000),
    ("500 MB, 4,000 files", 4_000, 125_000),
    ("2 GB, 4,000 files", 4_000, 500_000),
    ("500 MB, 20,000 files", 20_000, 25_000),
];
const PROCESSES: [&str; 3] = ["parallax", "skopeo", "mksquashfs"];

fn measure(session: &Session) -> anyhow::Result<Measured> {
    let mut peaks = Vec::new();
    let mut table =
        format!("migrate_rss:\n\n| image | memory | all | {} |\n|---|---|--:|--:|--:|--:|\n", PROCESSES.join(" | "));
    for (name, files, average) in IMAGES {
        let archive = session.directory_here().join("image.tar");
        big_image::write(&archive, files, average)?;
        let [default, bounded] = ["", "--max-memory 100MB"].map(|option| peak(session, option));
        for (memory, peak) in [("as by default", &default), ("100 MB", &bounded)] {
            let peak = peak.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
            let _ = write!(table, "| {name} | {memory} | {:.0} MiB |", mib(peak.all));
            for process in PROCESSES {
                let most = peak.each.get(process).with_context(|| format!("no {process} was seen: {peak:?}"))?;
                let _ = write!(table, " {:.0} MiB |", mib(*most));
            }
            table.push('\n');
        }
        peaks.push([default?, bounded?]);
        std::fs::remove_file(archive)?;
    }
    let [small, middle, big, _] = &peaks[..] else { anyhow::bail!("there are not four images") };
    let ratio = |big: &Peak, small: &Peak| Summary::of([mib(big.all) / mib(small.all)]);
    let layer = ["parallax", "mksquashfs"].iter().filter_map(|name| big[0].each.get(*name)).map(|kib| mib(*kib)).sum();
    Ok(Measured {
        figures: vec![
            Figure::new(ROW.id, FLAT, ratio(&big[0], &middle[0]), "").at_most(1.15),
            Figure::new("migrate_rss_bounded", BOUNDED, ratio(&big[1], &small[1]), "").at_most(1.25),
            // 128 MiB for mksquashfs and 64 MiB beside.
            Figure::new("migrate_rss_layer", MOST, Summary::of([layer]), "MiB").at_most(192.0),
        ],
        notes: vec![table],
    })
}

fn peak(session: &Session, option: &str) -> anyhow::Result<Peak> {
    let directory = session.directory();
    session.run("root", &["rm", "-rf", &format!("{directory}/store")])?;
    session.peak_memory(&format!(
        "parallax --quiet --store {directory}/store migrate docker-archive:{directory}/image.tar --name it {option}"
    ))
}

fn mib(kib: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "no process has 2^52 KiB")]
    let kib = kib as f64;
    kib / 1024.0
}
