//! srun, sbatch and salloc, as the user: everything is checked where it is typed.
//!
//! If a store can be read here, the name is resolved to the image's id, which travels with the job, so that all nodes run
//! the same image even if the name moves to another one meanwhile.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parallax_config::{Config, ConfigError, OnMissing};
use parallax_names::{ImageName, ImageRef, IndexPath, name_from_index_entry, nearest, unknown_image};
use parallax_sys::process::exit_now;
use slurm_spank::{SpankHandle, spank_log_user};

use crate::job::Setting;
use crate::options::{self, Wanted};

/// The variable that carries what a name meant: the name, a space, the image id.
pub const RESOLVED: &str = "PARALLAX_RESOLVED";

/// Checks what was asked for. If it can't work, this ends the program: an error returned to Slurm would be followed by
/// another message of Slurm's, and where the plugin is only `optional` the job would run without its image. At once, because
/// Slurm's own end of the program would call this plugin again, out of this very hook.
pub fn check(spank: &SpankHandle) {
    match examine(spank) {
        Ok(None) => {}
        Ok(Some((wanted, id))) => hand_on(&wanted, id.as_deref()),
        Err(message) => {
            spank_log_user!("parallax: {message}");
            exit_now(1);
        }
    }
}

fn examine(spank: &SpankHandle) -> Result<Option<(Wanted, Option<String>)>, String> {
    let Some(wanted) = options::wanted()? else { return Ok(None) };
    let reference = ImageRef::parse(&wanted.image).map_err(|error| error.to_string())?;
    let setting = Setting::read(spank)?;
    let config = match Config::load(&setting.config) {
        Ok(config) => config,
        // A host that only submits may have no configuration; the nodes check again.
        Err(ConfigError::Read { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
            return Ok(Some((wanted, None)));
        }
        Err(error) => return Err(error.to_string()),
    };
    let id = match resolved_before(&wanted.image) {
        Some(id) => Some(id),
        None => match resolve(&wanted.image, &reference, &config.stores) {
            Resolved::Id(id) => Some(id),
            Resolved::NotHere => None,
            // The nodes pull it; what has only an id they can't.
            Resolved::Unknown(_)
                if config.step.on_missing == OnMissing::Pull && !matches!(reference, ImageRef::Id(_)) =>
            {
                None
            }
            Resolved::Unknown(message) => return Err(message),
        },
    };
    Ok(Some((wanted, id)))
}

/// What the name meant when the job this runs in was submitted.
fn resolved_before(image: &str) -> Option<String> {
    parse_resolved(&std::env::var(RESOLVED).ok()?, image).map(ToOwned::to_owned)
}

/// The id in a value of [`RESOLVED`], if it is about this image.
pub fn parse_resolved<'a>(value: &'a str, image: &str) -> Option<&'a str> {
    value.split_once(' ').filter(|(name, _)| *name == image).map(|(_, id)| id)
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

/// Whether Podman's list has the image, or can't be read: podman-hpc and the Go tool write nothing else. The text is only
/// searched, which is quick, and only for what is in no index.
fn may_be_listed(store: &Path, image: &str, reference: &ImageRef) -> bool {
    let text = match fs::read_to_string(store.join("overlay-images/images.json")) {
        Ok(text) => text,
        Err(error) => return error.kind() != io::ErrorKind::NotFound,
    };
    match reference {
        ImageRef::Id(hex) | ImageRef::Digest(hex) => text.contains(hex.as_str()),
        ImageRef::Name(names) => {
            let names = names.iter().map(ToString::to_string).chain([image.to_owned()]);
            names.into_iter().any(|name| text.contains(&format!("\"{name}\"")))
        }
    }
}

fn names(store: &Path) -> Vec<ImageName> {
    let Ok(entries) = fs::read_dir(store.join(IndexPath::names_directory())) else { return Vec::new() };
    entries.filter_map(|entry| name_from_index_entry(entry.ok()?.file_name().to_str()?)).collect()
}

/// Hands the image on to the job and to every srun in it.
#[allow(unsafe_code, reason = "sets environment variables")]
fn hand_on(wanted: &Wanted, id: Option<&str>) {
    // SAFETY: srun, sbatch and salloc have one thread while they process their options.
    unsafe {
        for (name, value) in wanted.inheritance() {
            std::env::set_var(name, value);
        }
        match id {
            Some(id) => std::env::set_var(RESOLVED, format!("{} {id}", wanted.image)),
            None => std::env::remove_var(RESOLVED),
        }
    }
}
