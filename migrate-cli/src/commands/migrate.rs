//! `parallax migrate`.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{bail, ensure};
use parallax_layers::{Converted, DEFAULT_MOST_BYTES, Sqfstar, SquashfsOptions, convert};
use parallax_names::ImageName;
use parallax_store::{LayerFile, NewImage, Store, StoreError};
use serde::Serialize;

use super::{all, print_json};
use crate::cli::Global;
use crate::image::{Image, Layer, hex_of};
use crate::interrupt::{self, Guarded};
use crate::progress::Progress;
use crate::source::{Access, Reference, Source};
use crate::units;

/// The most layers converted at once: each takes the memory of [`SquashfsOptions::memory_mib`].
const MOST_AT_ONCE: usize = 4;

/// What `parallax migrate` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The images: docker://NAME, containers-storage:NAME, oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE, dir:DIR
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<String>,
    /// The name to store the image under [default: that of the source]
    #[arg(long)]
    name: Option<String>,
    /// Whether to check the registry's certificate
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    tls_verify: bool,
    /// The file with credentials for registries
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// The most a layer may unpack to, such as 200GB or 4TiB
    #[arg(long, value_name = "SIZE", default_value_t = DEFAULT_MOST_BYTES, hide_default_value = true,
        value_parser = units::parse)]
    max_layer_size: u64,
    /// Print a JSON array instead, one object for a source
    #[arg(long)]
    json: bool,
}

/// What became of one source, in the JSON form. Fields are only ever added.
#[derive(Debug, Serialize)]
struct Outcome {
    /// The source as given.
    source: String,
    /// The name the image is stored under.
    name: String,
    /// The image id, 64 hexadecimal digits.
    id: String,
    /// The manifest's digest, `sha256:…`.
    digest: String,
    /// How many layers the image has.
    layers: usize,
    /// How many of them the store did not have yet.
    new_layers: usize,
    /// What these take in the store, in bytes.
    new_stored: u64,
    /// Whether the store had the image under this name already, so that nothing was done.
    unchanged: bool,
}

/// Runs the command.
///
/// # Errors
/// If any source could not be migrated; the others have been.
pub fn run(global: &Global, options: &Options) -> anyhow::Result<()> {
    ensure!(options.name.is_none() || options.sources.len() == 1, "--name can name only one image; give one source");
    let store = Store::create_or_open(&global.store()?)?;
    interrupt::watch()?;
    let progress = Progress::new(global.quiet || options.json);
    let mut outcomes = Vec::new();
    let done = all(&options.sources, "migrated", |source| {
        let outcome = migrate(&store, source, options, &progress)?;
        progress.line(&outcome.sentence());
        outcomes.push(outcome);
        Ok(())
    });
    if options.json {
        print_json(&outcomes)?;
    }
    done
}

impl Outcome {
    fn sentence(&self) -> String {
        let Self { name, layers, new_layers, new_stored, .. } = self;
        let id = self.id.get(..12).unwrap_or(&self.id);
        if self.unchanged {
            return format!("{name}: already in the store ({id}), nothing to do");
        }
        let stored = units::bytes(*new_stored);
        let layers = units::count(*layers, "layer");
        format!("{name}: migrated ({id}), {layers}, {new_layers} new, {stored} added")
    }
}

fn migrate(store: &Store, text: &str, options: &Options, progress: &Progress) -> anyhow::Result<Outcome> {
    let reference = Reference::parse(text)?;
    let name = match &options.name {
        Some(name) => ImageName::for_storing(name)?,
        None => reference.default_name()?,
    };
    let access = Access { authfile: options.authfile.clone(), tls_verify: options.tls_verify };
    let source = Source::open(reference, access)?;
    let image = source.image()?;
    let unchanged = is_there(store, &image, &name)?;
    let (mut new_layers, mut new_stored) = (0, 0);
    if !unchanged {
        let new = bring(store, &source, &image, &name, options.max_layer_size, progress)?;
        new_layers = new.len();
        new_stored = new.values().sum();
    }
    Ok(Outcome {
        source: text.to_owned(),
        name: name.to_string(),
        layers: image.layers.len(),
        id: image.id,
        digest: image.digest,
        new_layers,
        new_stored,
        unchanged,
    })
}

/// Brings an image into the store, and returns the sizes of its new layers.
fn bring(
    store: &Store,
    source: &Source,
    image: &Image,
    name: &ImageName,
    most_bytes: u64,
    progress: &Progress,
) -> anyhow::Result<BTreeMap<String, u64>> {
    /// How often layers may go meanwhile, with the images that others remove.
    const ATTEMPTS: u32 = 3;
    let mut new = BTreeMap::new();
    let mut attempt = 1;
    loop {
        let missing = missing_layers(store, image)?;
        let work = Guarded::new(store.work_directory()?);
        let converted = convert_all(source, &missing, work.path(), progress, most_bytes)?;
        new.extend(converted.iter().map(|(_, layer)| (layer.diff_id.clone(), layer.squashfs_size)));
        match publish(store, image, name, &converted) {
            Err(StoreError::LayerGone(_)) if attempt < ATTEMPTS => attempt += 1,
            done => return Ok(done.map(|()| new)?),
        }
    }
}

/// Whether the store has the image whole, under this name and with these digests.
fn is_there(store: &Store, image: &Image, name: &ImageName) -> anyhow::Result<bool> {
    let is_it = |id: Option<String>| id.as_deref() == Some(&*image.id);
    let digests = [hex_of(&image.digest), image.index_digest.as_deref()];
    Ok(is_it(store.id_of_name(name))
        && digests.into_iter().flatten().all(|digest| is_it(store.id_of_digest(digest)))
        && store.image(&image.id)?.is_some())
}

/// The layers the store does not have, each once, with their places in the image; the largest first, so that none is
/// left to run alone at the end.
fn missing_layers<'a>(store: &Store, image: &'a Image) -> anyhow::Result<Vec<(usize, &'a Layer)>> {
    let mut missing: BTreeMap<&str, (usize, &Layer)> = BTreeMap::new();
    for (index, layer) in image.layers.iter().enumerate() {
        if store.layer(&layer.diff_id)?.is_none() {
            missing.entry(&layer.diff_id).or_insert((index, layer));
        }
    }
    let mut missing: Vec<_> = missing.into_values().collect();
    missing.sort_by_key(|(_, layer)| std::cmp::Reverse(layer.blob.size));
    Ok(missing)
}

/// What all layers of one migration are converted with.
struct Conversion<'a> {
    source: &'a Source,
    tool: Sqfstar,
    settings: SquashfsOptions,
    most_bytes: u64,
    work: &'a Path,
    progress: &'a Progress,
}

/// Converts layers into files in `work`, several at once.
fn convert_all(
    source: &Source,
    layers: &[(usize, &Layer)],
    work: &Path,
    progress: &Progress,
    most_bytes: u64,
) -> anyhow::Result<Vec<(PathBuf, LayerFile)>> {
    if layers.is_empty() {
        return Ok(Vec::new());
    }
    let tool = Sqfstar::find()?;
    let conversion = Conversion { source, tool, settings: SquashfsOptions::default(), most_bytes, work, progress };
    let workers = conversion.settings.processors.get().min(MOST_AT_ONCE).min(layers.len());
    let queue: Mutex<VecDeque<_>> = Mutex::new(layers.iter().collect());
    let take = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let worker = || {
        let mut done = Vec::new();
        while let Some((index, layer)) = take() {
            let one = conversion.one(*index, layer);
            // The first failure is the migration's: the others need not begin.
            done.push(one.inspect_err(|_| queue.lock().unwrap_or_else(PoisonError::into_inner).clear())?);
        }
        anyhow::Ok(done)
    };
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        threads.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    let mut all = Vec::with_capacity(layers.len());
    for result in results {
        match result {
            Ok(done) => all.extend(done?),
            Err(_) => bail!("a thread of the migration panicked; this is a defect of parallax"),
        }
    }
    Ok(all)
}

impl Conversion<'_> {
    fn one(&self, index: usize, layer: &Layer) -> anyhow::Result<(PathBuf, LayerFile)> {
        let file = self.work.join(&layer.diff_id);
        let shown = self.progress.layer(&layer.diff_id, layer.blob.size);
        let short = layer.diff_id.get(..12).unwrap_or(&layer.diff_id);
        let open = || {
            let blob = self.source.layer(index, layer).map(|blob| shown.count(blob));
            blob.map_err(|error| io::Error::other(format!("{error:#}")))
        };
        let what = parallax_layers::Layer { diff_id: &layer.diff_id, file: &file, most_bytes: self.most_bytes };
        let done = convert(what, self.tool, &self.settings, open).map_err(|error| match error {
            error if error.is_too_large() => anyhow::Error::new(error).context(format!(
                "layer {short} unpacks to more than {}; if that is right, allow it with --max-layer-size SIZE",
                units::bytes(self.most_bytes)
            )),
            error => anyhow::Error::new(error).context(format!("layer {short} cannot be converted")),
        })?;
        let Converted { size, squashfs_size, squashfs_sha256, max_uid, max_gid, dropped_xattrs } = done;
        if !dropped_xattrs.is_empty() {
            let names: Vec<String> = dropped_xattrs.into_iter().collect();
            tracing::warn!("layer {short}: SquashFS cannot keep these extended attributes: {}", names.join(", "));
        }
        self.progress.line(&format!(
            "layer {short}: {} in, {} stored",
            units::bytes(size),
            units::bytes(squashfs_size)
        ));
        let diff_id = layer.diff_id.clone();
        Ok((file, LayerFile { diff_id, size, squashfs_size, squashfs_sha256, max_uid, max_gid }))
    }
}

/// Moves the new layers into the store and makes the image visible: all of it, even if the process is interrupted.
fn publish(store: &Store, image: &Image, name: &ImageName, new: &[(PathBuf, LayerFile)]) -> Result<(), StoreError> {
    let _uninterrupted = interrupt::hold();
    let image = NewImage {
        id: image.id.clone(),
        digest: image.digest.clone(),
        index_digest: image.index_digest.clone(),
        name: name.clone(),
        created: image.created.clone(),
        manifest: image.manifest.clone(),
        config: image.config.clone(),
        diff_ids: image.layers.iter().map(|layer| layer.diff_id.clone()).collect(),
    };
    store.publish(&image, new).map(drop)
}
