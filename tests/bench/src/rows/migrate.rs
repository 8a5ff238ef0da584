//! What bringing an image into a store costs beside what mksquashfs alone takes for it.

use std::fs;

use anyhow::Context as _;
use parallax_format::digest::Digest;
use parallax_store::hash::sha256;
use serde_json::{Value, json};

use super::Row;
use crate::report::{Figure, Measured};
use crate::sampler::{Candidate, Samples};
use crate::session::Session;
use crate::statistics::Summary;

/// The first image of a store.
pub(super) const FIRST: Row = Row { id: "migrate_first", measure: first };
/// A second one on the same base.
pub(super) const SHARED: Row = Row { id: "migrate_shared", measure: shared };

const UNPACKED: &str = "`parallax migrate` of the big image from unpacked layers / mksquashfs on the same tar streams with the same options";
const GUNZIP: &str = "the same from layers packed with gzip / `gzip -dc` piped into mksquashfs";
const GZIP: &str = "the same from layers packed with gzip / mksquashfs on the unpacked tar streams";
const BESIDE: &str = "`parallax migrate` from unpacked layers with one compressing thread at zstd:9, which leaves a core to the rest / mksquashfs likewise";
const ONE_MORE: &str =
    "`parallax migrate` of the big image where its base is already / of an image that is nothing but its own layer";
const OWN: &str = "the same / mksquashfs on its own layer, on this machine's cores alone";
const BYTES: &str = "what the store grows by then, in data / its own layer's file";

/// mksquashfs as parallax calls it.
pub(super) const MKSQUASHFS: &str = "mksquashfs - out -tar -comp zstd -Xcompression-level 3 -b 131072 -mem 128M -mkfs-time 0 \
                          -exit-on-error -no-exports -no-recovery -quiet -no-progress";
const ROUNDS: usize = 7;
/// For what takes much longer.
const FEW_ROUNDS: usize = 3;

/// Prepares `directory`: `plain`, the big image with unpacked layers, `tars`, these in order, and `gz`, the packed ones.
fn prepare(session: &Session) -> anyhow::Result<String> {
    integration_tests::images::build(&["numpy", "python"])?;
    let directory = session.directory();
    let script = format!(
        r#"cd {directory}; [ -d plain ] && exit 0
        skopeo copy --quiet --dest-decompress oci:/images/numpy dir:plain
        layers() {{ sed 's/.*"layers"//; s/sha256:/\n/g' "$1" | tail -n +2 | cut -c1-64; }}
        layers <(tr -d '\n' <plain/manifest.json) | sed 's,^,plain/,' >tars
        skopeo inspect --raw oci:/images/numpy | tr -d '\n' >manifest
        layers manifest | sed 's,^,/images/numpy/blobs/sha256/,' >gz
        [ $(wc -l <tars) = 3 ] && [ $(wc -l <gz) = 3 ]"#
    );
    session.run("root", &["bash", "-euc", &script])?;
    Ok(directory)
}

fn script(directory: &str, text: &str) -> Candidate {
    let command = ["sh", "-euc", &format!("cd {directory}; {text}")].map(ToOwned::to_owned).into();
    let before = ["sh", "-euc", &format!("cd {directory}; rm -rf store out")].map(ToOwned::to_owned).into();
    Candidate { command, before, ..Candidate::new("") }
}

/// The ratios of two columns.
fn ratio(times: &[Vec<f64>], one: usize, other: usize) -> Summary {
    Summary::of(times.iter().map(|row| row[one] / row[other]))
}

fn times(samples: &Samples) -> Vec<Vec<f64>> {
    let seconds =
        |round: &Vec<_>| round.iter().map(|sample: &crate::sampler::Sample| sample.elapsed.as_secs_f64()).collect();
    samples.rounds.iter().map(seconds).collect()
}

fn medians(times: &[Vec<f64>], names: &[&str]) -> String {
    let median = |column: usize| Summary::of(times.iter().map(|row| row[column])).median;
    names
        .iter()
        .enumerate()
        .map(|(column, name)| format!("{name} {:.2} s", median(column)))
        .collect::<Vec<_>>()
        .join(", ")
}

fn first(session: &Session) -> anyhow::Result<Measured> {
    let directory = prepare(session)?;
    let commands = vec![
        script(&directory, &format!("while read -r tar; do rm -f out; {MKSQUASHFS} <$tar; done <tars")),
        script(&directory, &format!("while read -r tar; do rm -f out; gzip -dc $tar | {MKSQUASHFS}; done <gz")),
        script(&directory, "parallax --quiet --store store migrate dir:plain --name big"),
        script(&directory, "parallax --quiet --store store migrate oci:/images/numpy --name big"),
    ];
    let times = times(&session.sample_as_root(commands, 1, ROUNDS)?);
    let names = ["mksquashfs", "gzip and mksquashfs", "migrate of unpacked layers", "migrate of packed layers"];
    let one = MKSQUASHFS.replace("-Xcompression-level 3", "-Xcompression-level 9 -processors 1");
    let line = "parallax --quiet --store store migrate dir:plain --name big --processors 1 --compression zstd:9";
    let commands = vec![
        script(&directory, &format!("while read -r tar; do rm -f out; {one} <$tar; done <tars")),
        script(&directory, line),
    ];
    let beside = self::times(&session.sample_as_root(commands, 0, FEW_ROUNDS)?);
    let beside_names = ["mksquashfs at zstd:9 with one thread", "migrate likewise"];
    Ok(Measured {
        figures: vec![
            Figure::new(FIRST.id, UNPACKED, ratio(&times, 2, 0), "").at_most(1.15),
            Figure::new("migrate_first_beside", BESIDE, ratio(&beside, 1, 0), "").at_most(1.15),
            Figure::new("migrate_first_gunzip", GUNZIP, ratio(&times, 3, 1), "").at_most(1.15),
            Figure::new("migrate_first_gzip", GZIP, ratio(&times, 3, 0), ""),
        ],
        notes: vec![format!("migrate_first: {}, {}.", medians(&times, &names), medians(&beside, &beside_names))],
    })
}

fn shared(session: &Session) -> anyhow::Result<Measured> {
    let directory = prepare(session)?;
    own_layer_alone(session)?;
    // Names of files are those of the diffIDs, so plain layers and packed ones are the same to a store.
    let base =
        format!("cd {directory}; [ -d base ] || parallax --quiet --store base migrate oci:/images/python --name base");
    session.run("root", &["sh", "-euc", &base])?;
    let mksquashfs = script(&directory, &format!("{MKSQUASHFS} <$(tail -1 tars)"));
    let own = script(&directory, "parallax --quiet --store store migrate dir:own --name big");
    let mut more = script(&directory, "parallax --quiet --store store migrate dir:plain --name big");
    more.before[2].push_str("; cp -al base store");
    let times = times(&session.sample_as_root(vec![mksquashfs, own, more], 1, ROUNDS)?);
    let grown = format!(
        "cd {directory}; rm -rf store; cp -al base store; before=$(find store -type f -printf '%s\\n' | awk '{{s+=$1}} END {{print s}}'); \
         parallax --quiet --store store migrate dir:plain --name big; \
         find store -type f -printf '%s\\n' | awk -v before=$before '{{s+=$1}} END {{print s-before}}'; \
         parallax --store store inspect --json big | tr -d ' ,' | sed -n 's/\"stored\"://p' | tail -1"
    );
    let said = session.run("root", &["bash", "-euc", &grown])?.stdout;
    let numbers: Vec<f64> = said.lines().filter_map(|line| line.trim().parse().ok()).collect();
    let [grown, own] = numbers[..] else { anyhow::bail!("the node answered {said:?}") };
    Ok(Measured {
        figures: vec![
            Figure::new(SHARED.id, ONE_MORE, ratio(&times, 2, 1), "").at_most(1.15),
            Figure::new("migrate_shared_mksquashfs", OWN, ratio(&times, 2, 0), ""),
            Figure::new("migrate_shared_bytes", BYTES, Summary::of([grown / own]), "").at_most(1.01),
        ],
        notes: vec![format!("migrate_shared: {}.", medians(&times, &["mksquashfs", "its own layer", "all of it"]))],
    })
}

/// Makes `own` beside `plain`: an image with the last layer only.
fn own_layer_alone(session: &Session) -> anyhow::Result<()> {
    let plain = session.directory_here().join("plain");
    let own = plain.with_file_name("own");
    if own.exists() {
        return Ok(());
    }
    fs::create_dir(&own)?;
    let hex = |digest: &Value| Some(*Digest::parse(digest.as_str()?)?.sha256());
    let mut manifest: Value = serde_json::from_slice(&fs::read(plain.join("manifest.json"))?)?;
    let layer = manifest["layers"].as_array().and_then(|layers| layers.last()).context("no layers")?.clone();
    let name = hex(&manifest["config"]["digest"]).context("no configuration")?;
    let mut config: Value = serde_json::from_slice(&fs::read(plain.join(name))?)?;
    config["rootfs"]["diff_ids"] = json!([layer["digest"]]);
    config.as_object_mut().context("an odd configuration")?.remove("history");
    let config = config.to_string();
    let id = sha256(config.as_bytes());
    manifest["config"]["digest"] = json!(Digest::from(id));
    manifest["config"]["size"] = json!(config.len());
    let name = hex(&layer["digest"]).context("no layer")?;
    manifest["layers"] = json!([layer]);
    fs::hard_link(plain.join(name), own.join(name))?;
    fs::write(own.join(id), config)?;
    fs::copy(plain.join("version"), own.join("version"))?;
    Ok(fs::write(own.join("manifest.json"), manifest.to_string())?)
}
