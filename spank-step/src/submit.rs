//! srun, sbatch and salloc, as the user: everything is checked where it is typed.
//!
//! If a store can be read here, the name is resolved to the image's id, which travels with the job, so that all nodes run
//! the same image even if the name moves to another one meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parallax_config::{Config, ConfigError, OnMissing};
use parallax_format::layout;
use parallax_format::{
    ImageName, ImageRef, IndexPath, ambiguous_id, id_prefix, name_from_index_entry, nearest, unknown_image,
};
use parallax_sys::process::exit_now;
use slurm_spank::{SpankHandle, spank_log_user};

use crate::components::Components;
use crate::job::Setting;
use crate::options::{self, Wanted};
use crate::pin::{self, Pin};

/// Checks what was asked for. If it cannot work, this ends the program: an error returned to Slurm would be followed by
/// another message of Slurm's, and where the plugin is only `optional` the job would run without its image. At once, because
/// Slurm's own end of the program would call this plugin again, out of this very hook. Slurm calls this once for each component
/// of a heterogeneous job or step. `makes_step` is true in srun.
pub fn check(spank: &SpankHandle, components: &mut Components, makes_step: bool) {
    let job = if makes_step { std::env::var(pin::JOB_ID).ok() } else { None };
    let examined = components.next(&options::events(), makes_step).and_then(|wanted| match wanted {
        Some(wanted) => examine(spank, &wanted, job.as_deref()).map(|id| hand_on(&wanted, job, id)),
        None => Ok(()),
    });
    if let Err(message) = examined {
        spank_log_user!("parallax: {message}");
        exit_now(1);
    }
}

/// Returns the id of the image, if it can be told here.
fn examine(spank: &SpankHandle, wanted: &Wanted, job: Option<&str>) -> Result<Option<String>, String> {
    let reference = ImageRef::parse(&wanted.image).map_err(|error| error.to_string())?;
    let setting = Setting::read(spank)?;
    let config = match Config::load(&setting.config) {
        Ok(config) => config,
        // A host that only submits may have no configuration; the nodes check again.
        Err(ConfigError::Read { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if let Some(id) = job.and_then(|job| pinned(job, &wanted.image)) {
        return Ok(Some(id));
    }
    match resolve(&wanted.image, &reference, &config.stores) {
        Resolved::Id(id) => Ok(Some(id)),
        Resolved::NotHere => Ok(None),
        // The nodes pull it; what has only an id they cannot.
        Resolved::Unknown(_)
            if config.step.on_missing == OnMissing::Pull && can_be_pulled(&wanted.image, &reference) =>
        {
            Ok(None)
        }
        Resolved::Unknown(message) => Err(message),
    }
}

fn can_be_pulled(image: &str, reference: &ImageRef) -> bool {
    !matches!(reference, ImageRef::Id(_)) && id_prefix(image).is_none()
}

/// What the name meant when the job that this process belongs to was submitted.
fn pinned(job: &str, image: &str) -> Option<String> {
    Pin::parse(&std::env::var(pin::VARIABLE).ok()?)?.id_in(job, image)
}

/// What a name means on this host.
enum Resolved {
    /// This image.
    Id(String),
    /// That can't be told here: a store can't be read, or has an image by this name that another tool wrote.
    NotHere,
    /// Nothing; one sentence.
    Unknown(String),
}

/// The image id of a name, by one `readlink` in each store.
fn resolve(image: &str, reference: &ImageRef, stores: &[PathBuf]) -> Resolved {
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
    // Which of another tool's images is meant is for the nodes to find out.
    if !all_readable || stores.iter().any(|store| may_be_listed(store, image, reference)) {
        return Resolved::NotHere;
    }
    let known: Vec<ImageName> = stores.iter().flat_map(|store| names(store)).collect();
    let paths: Vec<String> = stores.iter().map(|store| store.display().to_string()).collect();
    Resolved::Unknown(unknown_image(image, &paths, &nearest(image, &known)))
}

fn look_up(path: &Path, reference: &ImageRef) -> io::Result<Option<String>> {
    if let ImageRef::Id(id) = reference {
        return Ok(path.try_exists()?.then(|| id.clone()));
    }
    match fs::read_link(path) {
        Ok(target) => Ok(target.to_str().and_then(IndexPath::id_from_link).map(ToOwned::to_owned)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The image whose id begins so; all ids that do, if there are several.
fn by_prefix(prefix: &str, stores: &[PathBuf]) -> Result<Option<String>, Vec<String>> {
    let records =
        stores.iter().filter_map(|store| fs::read_dir(store.join(IndexPath::records_directory())).ok()).flatten();
    let ids = records.filter_map(|entry| {
        let file = entry.ok()?.file_name();
        let id = IndexPath::id_from_record(file.to_str()?)?;
        id.starts_with(prefix).then(|| id.to_owned())
    });
    // The same image may be in several stores.
    let mut ids: Vec<String> = ids.collect::<BTreeSet<_>>().into_iter().collect();
    if ids.len() > 1 { Err(ids) } else { Ok(ids.pop()) }
}

/// Whether Podman's list has the image, or can't be read: podman-hpc and the Go tool write nothing else. The text is only
/// searched, which is quick, and only for what is in no index.
fn may_be_listed(store: &Path, image: &str, reference: &ImageRef) -> bool {
    let text = match fs::read_to_string(store.join(layout::IMAGES_JSON)) {
        Ok(text) => text,
        Err(error) => return error.kind() != io::ErrorKind::NotFound,
    };
    match reference {
        ImageRef::Id(hex) | ImageRef::Digest(hex) => text.contains(hex.as_str()),
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

/// Hands the image on to the job and to every srun in it.
#[allow(unsafe_code, reason = "sets environment variables")]
fn hand_on(wanted: &Wanted, job: Option<String>, id: Option<String>) {
    let pin = Pin { job, image: wanted.image.clone(), id };
    // SAFETY: srun, sbatch and salloc have one thread while they process their options.
    unsafe {
        for (name, value) in wanted.inheritance() {
            std::env::set_var(name, value);
        }
        std::env::set_var(pin::VARIABLE, pin.value());
    }
}
