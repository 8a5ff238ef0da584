//! `parallax migrate --adopt`: images of another tool, brought up to the full format without converting them.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use parallax_format::digest::ImageId;
use parallax_format::record::{ImageRecord, LayerRecord};
use parallax_store::hash::Digester;
use parallax_store::{Store, StoreError};
use serde::Serialize;

use super::each::each;
use super::find::find;
use crate::global::Global;
use crate::interrupt;
use crate::output::print_json;
use crate::progress::Progress;

/// Result of one image in the JSON form. Future versions only add fields.
#[derive(Debug, Serialize)]
struct Outcome {
    /// The image as given, or its id.
    image: String,
    /// The image id.
    id: ImageId,
    /// Its names.
    names: Vec<String>,
    /// `true` if it already had a record, so that nothing was done.
    unchanged: bool,
}

/// Totals of the listing of a SquashFS file.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Contents {
    bytes: u64,
    max_uid: u32,
    max_gid: u32,
}

/// Adopts the images; all images if none is named.
///
/// # Errors
/// If any could not be adopted; the others have been.
pub(super) fn run(global: &Global, images: &[String], json: bool) -> anyhow::Result<()> {
    let store = Store::open(&global.existing_store()?)?;
    interrupt::watch()?;
    let progress = Progress::new(global, json);
    let every: Vec<String>;
    let images = if images.is_empty() {
        // One that lies unpacked has no SquashFS file.
        let unpacked = store.unpacked_images()?;
        let is_file = |id: &String| ImageId::parse(id).is_none_or(|id| !unpacked.contains_key(&id));
        every = store.foreign_images()?.into_iter().map(|image| image.id).filter(is_file).collect();
        &every
    } else {
        images
    };
    let mut outcomes = Vec::new();
    let done = each(images, "adopted", |image| {
        let outcome = adopt(&store, image)?;
        progress.line(&outcome.sentence());
        outcomes.push(outcome);
        Ok(())
    });
    if json {
        print_json(&outcomes)?;
    } else if images.is_empty() {
        progress.line("no image of another tool is there, nothing to do");
    }
    done
}

impl Outcome {
    fn sentence(&self) -> String {
        let id = self.id.short();
        let name = self.names.first().map_or("<none>", String::as_str);
        let what = if self.unchanged { "has a record already, nothing to do" } else { "adopted" };
        format!("{name}: {what} ({id})")
    }
}

fn adopt(store: &Store, image: &str) -> anyhow::Result<Outcome> {
    let id = find(store, image)?.id;
    let (record, unchanged) = match store.record(&id)? {
        Some(record) => (record, true),
        None => fill_and_adopt(store, &id)?,
    };
    Ok(Outcome { image: image.to_owned(), id, names: record.names, unchanged })
}

fn fill_and_adopt(store: &Store, id: &ImageId) -> anyhow::Result<(ImageRecord, bool)> {
    let mut record = store.foreign_image(id)?;
    for layer in &mut record.layers {
        let path = store.root().join(layer.file_path());
        fill(layer, &path).with_context(|| path.display().to_string())?;
    }
    let _uninterrupted = interrupt::hold();
    match store.adopt(&record) {
        // Another process was faster.
        Err(error @ StoreError::NoImage(_)) => Ok((store.record(id)?.ok_or(error)?, true)),
        record => Ok((record?, false)),
    }
}

fn fill(layer: &mut LayerRecord, path: &Path) -> anyhow::Result<()> {
    let mut file = File::open(path)?;
    let mut digester = Digester::default();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            got => digester.update(buffer.get(..got).unwrap_or_default()),
        }
    }
    let contents = list(path)?;
    layer.squashfs_sha256 = Some(digester.finish());
    layer.size = contents.bytes;
    layer.max_uid = contents.max_uid;
    layer.max_gid = contents.max_gid;
    Ok(())
}

/// Has `unsquashfs` list a file: it knows all compressions.
fn list(path: &Path) -> anyhow::Result<Contents> {
    let mut command = Command::new("unsquashfs");
    command.arg("-lln").arg(path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run unsquashfs; install squashfs-tools")?;
    let mut contents = Contents::default();
    // Names may hold any bytes.
    for line in BufReader::new(child.stdout.take().context("no output")?).split(b'\n') {
        contents.add(&String::from_utf8_lossy(&line?));
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(io::Error::other(format!("unsquashfs: {}", said.trim())).into());
    }
    Ok(contents)
}

impl Contents {
    /// Takes in a line such as `-rw-r----- 0/42   1234 2025-01-01 00:00 squashfs-root/etc/shadow`. A name with a line break
    /// can look like one: then the ids only come out too high.
    fn add(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let (Some(mode), Some(owner), size) = (words.next(), words.next(), words.next()) else { return };
        let is_mode = mode.len() >= 10 && mode.starts_with(['-', 'd', 'l', 'b', 'c', 'p', 's']);
        let ids = owner.split_once('/').and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
        let Some((uid, gid)) = ids.filter(|_| is_mode) else { return };
        self.max_uid = self.max_uid.max(uid);
        self.max_gid = self.max_gid.max(gid);
        if mode.starts_with('-') {
            self.bytes += size.and_then(|size| size.parse::<u64>().ok()).unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_tells_sizes_and_ids() {
        let mut contents = Contents::default();
        for line in [
            "drwxr-xr-x 0/0                   80 2025-01-01 00:00 squashfs-root",
            "-rw-r----- 0/42                  74 2025-01-01 00:00 squashfs-root/etc/shadow",
            "-rw-r--r-- 100/65534           1000 2025-01-01 00:00 squashfs-root/a b",
            "crw-rw-rw- 0/0            1,  3 2025-01-01 00:00 squashfs-root/dev/null",
            "lrwxrwxrwx 7/0                    7 2025-01-01 00:00 squashfs-root/bin -> usr/bin",
            "Parallel unsquashfs: Using 2 processors",
            "",
        ] {
            contents.add(line);
        }
        assert_eq!(contents, Contents { bytes: 1074, max_uid: 100, max_gid: 65534 });
    }
}
