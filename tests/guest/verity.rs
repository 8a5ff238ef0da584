//! Files of layers that the kernel checks (fs-verity).

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use parallax_agent::layers::{Abilities, LayerTable};
use parallax_config::{Agent, Config, LayerReads, Verify};
use parallax_format::ImageRef;
use parallax_format::digest::Sha256;
use parallax_format::record::ImageRecord;
use parallax_layers::fs_verity_digest;
use parallax_store::read::TrustedStore;
use parallax_sys::credentials::Credentials;
use parallax_sys::verity;

use super::disk::{Disk, run};
use super::image::{migrate, parallax};

tests! {
    our_digests_are_the_kernels,
    a_migration_enables_it_and_records_the_digest,
    a_store_without_it_has_the_same_descriptions,
    the_agent_reads_no_whole_file,
    the_agent_refuses_another_file,
    a_changed_block_is_an_error_of_the_reader,
    commands_show_it,
}

const EXT4: [&str; 4] = ["mkfs.ext4", "-q", "-O", "verity"];
/// Size of the image's file in bytes.
const BYTES: usize = 3_000_000;

fn disk() -> anyhow::Result<Disk> {
    Disk::new(&EXT4, "loop")
}

fn measured(path: &Path) -> anyhow::Result<Option<Sha256>> {
    Ok(verity::measure(File::open(path)?).map(Sha256::from))
}

/// The path of a file's description.
fn described(file: &Path) -> std::path::PathBuf {
    if file.extension().is_some_and(|end| end == "erofs") {
        file.with_extension("erofs.json")
    } else {
        file.with_extension("json")
    }
}

fn our_digests_are_the_kernels() -> anyhow::Result<()> {
    let disk = disk()?;
    let block = 4096;
    for size in [0, 1, block - 1, block, block + 1, 128 * block, 128 * block + 1, 129 * block] {
        let path = disk.path().join(size.to_string());
        let bytes: Vec<u8> = (0..size).map(|index: usize| (index / 7 % 251).to_le_bytes()[0]).collect();
        fs::write(&path, &bytes)?;
        ensure!(verity::enable(File::open(&path)?)?, "no fs-verity");
        let ours = fs_verity_digest(bytes.as_slice())?;
        ensure!(measured(&path)? == Some(ours), "{size}: {:?}, ours is {ours}", measured(&path)?);
        fs::remove_file(path)?;
    }
    Ok(())
}

fn a_migration_enables_it_and_records_the_digest() -> anyhow::Result<()> {
    let disk = disk()?;
    for file in migrate(&disk.path().join("store"), BYTES)? {
        let text: serde_json::Value = serde_json::from_slice(&fs::read(described(&file))?)?;
        let found = measured(&file)?.context("the kernel does not check the file")?;
        ensure!(text["fs_verity"] == found.as_str(), "{file:?}: {found}, {text}");
        let written = fs::OpenOptions::new().write(true).open(&file);
        ensure!(written.is_err(), "the file can be written");
    }
    Ok(())
}

fn a_store_without_it_has_the_same_descriptions() -> anyhow::Result<()> {
    let (with, without) = (disk()?, Disk::new(&EXT4[..2], "loop")?);
    let files = [migrate(&with.path().join("store"), BYTES)?, migrate(&without.path().join("store"), BYTES)?];
    for (one, other) in files[0].iter().zip(&files[1]) {
        ensure!(measured(other)?.is_none(), "{other:?} is checked by the kernel");
        ensure!(fs::read(one)? == fs::read(other)?, "the files differ");
        ensure!(fs::read(described(one))? == fs::read(described(other))?, "the descriptions differ");
    }
    ensure!(mount(&without.path().join("store"), Verify::Always)?.is_ok(), "it is not mounted");
    Ok(())
}

fn record(store: &TrustedStore) -> anyhow::Result<ImageRecord> {
    store.resolve(&ImageRef::parse("app")?)?.context("no image")
}

fn table(mounts: &Path, set: impl Fn(&mut Agent)) -> anyhow::Result<LayerTable> {
    let mut config = Config::parse("stores = [\"/nonexistent\"]").map_err(|(_, message)| anyhow::anyhow!(message))?;
    set(&mut config.agent);
    Ok(LayerTable::new(mounts.to_owned()).configured(&config))
}

/// Mounts the image's layer in both formats as the agent does; returns the bytes that this read beside the kernel, or the error.
fn mount(store: &Path, verify: Verify) -> anyhow::Result<Result<u64, String>> {
    let mounts = tempfile::tempdir()?;
    let table = table(mounts.path(), |agent| agent.verify = verify)?;
    let store = TrustedStore::open(store)?;
    let record = record(&store)?;
    let before = bytes_read()?;
    for erofs in [false, true] {
        let abilities = Abilities { erofs, ..Abilities::default() };
        if let Err(error) = table.get(&store, &record.layers[0], &Credentials::root(), &abilities) {
            return Ok(Err(error.to_string()));
        }
    }
    Ok(Ok(bytes_read()? - before))
}

/// The bytes that this thread has read by system calls.
fn bytes_read() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/io")?;
    Ok(text.lines().find_map(|line| line.strip_prefix("rchar: ")).context("no rchar")?.parse()?)
}

fn the_agent_reads_no_whole_file() -> anyhow::Result<()> {
    let disk = disk()?;
    let store = disk.path().join("store");
    migrate(&store, BYTES)?;
    let read = mount(&store, Verify::Always)?.map_err(anyhow::Error::msg)?;
    ensure!(read < BYTES as u64 / 2, "{read} bytes were read");
    // A description of an earlier version has no digest.
    for file in migrate(&store, BYTES)? {
        let path = described(&file);
        let mut text: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
        text.as_object_mut().context("no object")?.remove("fs_verity");
        fs::write(&path, text.to_string())?;
    }
    let read = mount(&store, Verify::Always)?.map_err(anyhow::Error::msg)?;
    ensure!(read > BYTES as u64, "only {read} bytes were read");
    Ok(())
}

fn the_agent_refuses_another_file() -> anyhow::Result<()> {
    let disk = disk()?;
    let store = disk.path().join("store");
    let [file, _] = migrate(&store, BYTES)?;
    let mut bytes = fs::read(&file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(&file)?;
    fs::write(&file, bytes)?;
    ensure!(mount(&store, Verify::Off)?.is_ok(), "without fs-verity nothing is known of it");
    ensure!(verity::enable(File::open(&file)?)?, "no fs-verity");
    let error = mount(&store, Verify::Off)?.err().context("another file was mounted")?;
    for part in ["is not what was migrated", "fs-verity", "parallax verify"] {
        ensure!(error.contains(part), "{error}");
    }
    let done = parallax(&store, &["verify", "app"])?;
    ensure!(done.code == 1 && done.stdout.contains("fs-verity"), "{done:?}");
    Ok(())
}

fn a_changed_block_is_an_error_of_the_reader() -> anyhow::Result<()> {
    let disk = disk()?;
    let [file, _] = migrate(&disk.path().join("store"), BYTES)?;
    let inside = file.strip_prefix(disk.path())?.to_owned();
    run(Command::new("umount").arg(disk.path()))?;
    let command = format!("zap_block -f /{} -o 100 -l 8 -p 90 300", inside.display());
    run(Command::new("debugfs").args(["-w", "-R", &command]).arg(disk.image()))?;
    run(Command::new("mount").args(["-o", "loop"]).arg(disk.image()).arg(disk.path()))?;
    let is_io = |error: std::io::Error| error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
    ensure!(is_io(fs::read(&file).err().context("a changed block was read")?), "not EIO");
    let store = TrustedStore::open(&disk.path().join("store"))?;
    let record = record(&store)?;
    for reads in [LayerReads::Buffered, LayerReads::Direct] {
        let mounts = tempfile::tempdir()?;
        let table = table(mounts.path(), |agent| agent.layer_reads = reads)?;
        let layer = table.get(&store, &record.layers[0], &Credentials::root(), &Abilities::default())?;
        let read = fs::read(layer.entry().mount_point.join("file"));
        ensure!(is_io(read.err().context("a step reads a changed block")?), "not EIO");
    }
    Ok(())
}

fn commands_show_it() -> anyhow::Result<()> {
    let (with, without) = (disk()?, Disk::new(&EXT4[..2], "loop")?);
    for (disk, is_checked) in [(&with, true), (&without, false)] {
        let store = disk.path().join("store");
        migrate(&store, BYTES)?;
        let done = parallax(&store, &["verify", "app"])?.success()?;
        ensure!(!done.stdout.contains("fs-verity"), "{done:?}");
        let shown = parallax(&store, &["inspect", "--json", "app"])?.success()?.stdout;
        let report: serde_json::Value = serde_json::from_str(&shown)?;
        ensure!(report["layers"][0]["fs_verity"] == is_checked, "{shown}");
        let shown = parallax(&store, &["inspect", "app"])?.success()?.stdout;
        ensure!(shown.contains("fs-verity") == is_checked, "{shown}");
        let place = tempfile::tempdir()?;
        let config = place.path().join("parallax.toml");
        fs::write(&config, format!("stores = [{store:?}]\n"))?;
        let path = config.to_str().context("no UTF-8")?;
        let shown = parallax(&store, &["--config", path, "doctor"])?;
        ensure!(shown.stdout.contains("the kernel checks 2 of 2 files of layers") == is_checked, "{shown:?}");
    }
    Ok(())
}
