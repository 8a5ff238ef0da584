//! srun, sbatch and salloc, as the user: options are checked where they are typed.
//!
//! If the stores are readable here, the name is resolved to the image's id, which travels with the job, so that all nodes run
//! the same image even if the name moves to another image meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parallax_config::OnMissing;
use parallax_format::digest::ImageId;
use parallax_format::{
    ImageName, ImageRef, IndexPath, Pin, RequestedImage, ambiguous_id, id_prefix, name_from_index_entry, nearest,
    unknown_image,
};
use parallax_format::{ducc, layout};
use parallax_spank_hooks::{INHERITED_IMAGE, JOB_ID, PIN, text};
use parallax_sys::process::exit_now;
use parallax_trees::{Repository, known_names, only_in_layers};
use slurm_spank::{SpankHandle, spank_log_user};

use crate::components::Components;
use crate::of_job;
use crate::options::{self, NO_IMAGE, Wanted};
use crate::site::Site;

/// Maximum length of a request in bytes. Linux takes no variable of more than 128 KiB (`MAX_ARG_STRLEN`).
const MAX_REQUEST: usize = 120_000;

/// Checks the request, and ends the program if the request is invalid: an error returned to Slurm would be followed by
/// another message of Slurm, and with an `optional` plugin the job would run without its image. The program ends at once, because
/// Slurm's regular exit would call this plugin again from within this hook. Slurm calls this function once for each component
/// of a heterogeneous job or step. `makes_step` is true in srun.
pub(crate) fn check(spank: &SpankHandle, components: &mut Components, makes_step: bool) {
    let job = if makes_step { std::env::var(text(JOB_ID)).ok().and_then(|job| job.parse().ok()) } else { None };
    let site = Site::read(spank, job.is_some());
    let events = options::events();
    let examined = components.next(&events, &site, makes_step).and_then(|wanted| match wanted {
        Some(wanted) => examine(&site, &wanted, job).and_then(|id| hand_on(&wanted, job, id)),
        None if options::may_have_image(&events) => {
            hand_on_none(job);
            Ok(())
        }
        None => Ok(()),
    });
    if let Err(message) = examined {
        spank_log_user!("parallax: {message}");
        exit_now(1);
    }
}

/// Returns the id of the image, if this host can determine it.
fn examine(site: &Site, wanted: &Wanted, job: Option<u32>) -> Result<Option<ImageId>, String> {
    let reference = match RequestedImage::parse(&wanted.image).map_err(|error| error.to_string())? {
        RequestedImage::Path(path) => return check_path(&path).map(|()| None),
        // Known on the nodes.
        RequestedImage::OfContainer(_) => return Ok(None),
        RequestedImage::InStore(reference) => reference,
    };
    let Some(config) = site.config()? else { return Ok(None) };
    if let Some(id) = job.and_then(|job| pinned(job, &wanted.image)) {
        return Ok(Some(id));
    }
    match resolve(&wanted.image, &reference, &config.stores, &config.trees.paths) {
        Resolved::Id(id) => Ok(Some(id)),
        Resolved::NotHere => Ok(None),
        // The nodes pull the image, unless only an id was given.
        Resolved::Unknown(_)
            if config.step.on_missing == OnMissing::Pull && can_be_pulled(&wanted.image, &reference) =>
        {
            Ok(None)
        }
        Resolved::Unknown(message) => Err(message),
    }
}

/// Checks a path that is the image. It may exist on the nodes only; they open it, and say what is wrong.
fn check_path(path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(found) if !found.is_dir() && !found.is_file() => Err(format!(
            "{} is neither a directory with a root file system nor a SquashFS file; \"parallax list\" shows the images of the store",
            path.display()
        )),
        _ => Ok(()),
    }
}

fn can_be_pulled(image: &str, reference: &ImageRef) -> bool {
    !matches!(reference, ImageRef::Id(_)) && id_prefix(image).is_none()
}

/// Returns the id that the name meant when this process's job was submitted.
fn pinned(job: u32, image: &str) -> Option<ImageId> {
    std::env::var(text(PIN)).ok()?.parse::<Pin>().ok()?.id_in(job, image)
}

/// Result of resolving a name on this host.
enum Resolved {
    /// The image's id.
    Id(ImageId),
    /// This host cannot resolve the name: a store is unreadable, or has an image of another tool with this name.
    NotHere,
    /// Not found; the message for the user.
    Unknown(String),
}

/// Resolves a name to an image id, by one `readlink` in each store.
fn resolve(image: &str, reference: &ImageRef, stores: &[PathBuf], trees: &[PathBuf]) -> Resolved {
    let mut all_readable = true;
    for store in stores {
        for path in IndexPath::candidates(reference) {
            match look_up(&store.join(&path), reference) {
                Ok(Some(id)) => return Resolved::Id(id),
                Ok(None) => {}
                Err(_) => all_readable = false,
            }
        }
        all_readable = all_readable && store.is_dir();
    }
    if let Some(prefix) = id_prefix(image) {
        match by_prefix(prefix, stores) {
            Ok(None) => {}
            Ok(Some(id)) => return Resolved::Id(id),
            Err(ids) => return Resolved::Unknown(ambiguous_id(image, &ids)),
        }
    }
    // The nodes resolve names of another tool's images.
    if !all_readable || stores.iter().any(|store| may_be_listed(store, image, reference)) {
        return Resolved::NotHere;
    }
    if let Some(resolved) = resolve_in_trees(reference, trees) {
        return resolved;
    }
    if let Some(sentence) = only_in_layers(image, reference, trees) {
        return Resolved::Unknown(sentence);
    }
    let known: Vec<ImageName> = stores.iter().flat_map(|store| names(store)).chain(known_names(trees)).collect();
    let paths: Vec<String> = stores.iter().chain(trees).map(|store| store.display().to_string()).collect();
    Resolved::Unknown(unknown_image(image, &paths, &nearest(image, &known)))
}

/// Resolves a name in repositories of unpacked images, whose public names are links to directories with the images' ids as their names;
/// `None` if none has it.
fn resolve_in_trees(reference: &ImageRef, trees: &[PathBuf]) -> Option<Resolved> {
    for tree in trees {
        let found = Repository::new(tree).find(reference).and_then(|place| place.map(fs::canonicalize).transpose());
        match found {
            Ok(Some(path)) => {
                return Some(ducc::flat_image(&path).map_or(Resolved::NotHere, |(_, id)| Resolved::Id(id)));
            }
            Ok(None) => {}
            Err(_) => return Some(Resolved::NotHere),
        }
    }
    None
}

fn look_up(path: &Path, reference: &ImageRef) -> io::Result<Option<ImageId>> {
    if let ImageRef::Id(id) = reference {
        return Ok(path.try_exists()?.then_some(*id));
    }
    match fs::read_link(path) {
        Ok(target) => Ok(target.to_str().and_then(IndexPath::id_from_link)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the image whose id begins with `prefix`; if there are several, all of their ids as the error.
fn by_prefix(prefix: &str, stores: &[PathBuf]) -> Result<Option<ImageId>, Vec<ImageId>> {
    let records =
        stores.iter().filter_map(|store| fs::read_dir(store.join(IndexPath::records_directory())).ok()).flatten();
    let ids = records.filter_map(|entry| {
        let id = IndexPath::id_from_record(entry.ok()?.file_name().to_str()?)?;
        id.starts_with(prefix).then_some(id)
    });
    // The same image may be in several stores.
    let mut ids: Vec<ImageId> = ids.collect::<BTreeSet<_>>().into_iter().collect();
    if ids.len() > 1 { Err(ids) } else { Ok(ids.pop()) }
}

/// Whether Podman's list has the image, or cannot be read: podman-hpc and the Go tool write nothing else. The text is only
/// searched, which is fast, and only for images without an index entry.
fn may_be_listed(store: &Path, image: &str, reference: &ImageRef) -> bool {
    let text = match fs::read_to_string(store.join(layout::IMAGES_JSON)) {
        Ok(text) => text,
        Err(error) => return error.kind() != io::ErrorKind::NotFound,
    };
    match reference {
        ImageRef::Id(id) => text.contains(id.as_str()),
        ImageRef::Digest(digest) => text.contains(digest.sha256().as_str()),
        ImageRef::Name(names) => {
            let names = names.iter().map(ToString::to_string).chain([image.to_owned()]);
            let has_name = names.into_iter().any(|name| text.contains(&format!("\"{name}\"")));
            has_name || id_prefix(image).is_some_and(|prefix| text.contains(&format!("\"{prefix}")))
        }
    }
}

fn names(store: &Path) -> Vec<ImageName> {
    let Ok(entries) = fs::read_dir(store.join(IndexPath::names_directory())) else { return Vec::new() };
    entries.filter_map(|entry| name_from_index_entry(entry.ok()?.file_name().to_str()?)).collect()
}

/// Sets the variables by which the job and every srun in it inherit the image and the request.
///
/// # Errors
/// A message for the user: the request is too large for a variable.
#[allow(unsafe_code, reason = "sets environment variables")]
fn hand_on(wanted: &Wanted, job: Option<u32>, id: Option<ImageId>) -> Result<(), String> {
    let request = wanted.request.to_variable();
    if request.len() > MAX_REQUEST {
        let length = request.len();
        return Err(format!(
            "the options beside the image are too long: {length} bytes, and {MAX_REQUEST} are possible"
        ));
    }
    let pin = Pin { job, image: wanted.image.clone(), id };
    // SAFETY: srun, sbatch and salloc have one thread while they process their options.
    unsafe {
        for (name, value) in wanted.inheritance() {
            std::env::set_var(name, value);
        }
        std::env::set_var(text(PIN), pin.to_string());
        if wanted.request.is_empty() {
            std::env::remove_var(of_job::VARIABLE);
        } else {
            std::env::set_var(of_job::VARIABLE, request);
        }
    }
    Ok(())
}

/// Has the nodes know that a step has no image although an option that gives one indirectly reaches them.
#[allow(unsafe_code, reason = "sets environment variables")]
fn hand_on_none(job: Option<u32>) {
    let pin = Pin { job, image: NO_IMAGE.to_owned(), id: None };
    // SAFETY: srun, sbatch and salloc have one thread while they process their options.
    unsafe {
        // Both, since what is inherited counts as the job's if the two name the same.
        std::env::set_var(text(INHERITED_IMAGE), NO_IMAGE);
        std::env::set_var(text(PIN), pin.to_string());
    }
}
