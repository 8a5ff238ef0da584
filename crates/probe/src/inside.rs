//! The process that makes the trials: which ones, in which order, with what one leaves to the next.

use std::path::Path;

use parallax_sys::user_namespace::{IdRange, UserNamespace};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::findings::{Ability, report};
use crate::image::COMPRESSORS;
use crate::lazy;
use crate::trials::{self, Ids, Place, Writable};

/// The user, and the first subordinate id, of the namespace in which root tries what users do: nobody's. Nothing of theirs is
/// touched: the ids are seen on mounts that nobody else sees.
const USER: u32 = 65_534;
const SUBORDINATE: IdRange = IdRange { inside: 1, outside: 100_000, count: 65_535 };

/// Makes all trials, as root.
pub(crate) fn make_all_trials(mount_program: &Path, lazy: bool) -> Result<(), String> {
    let place = begin()?;
    trials::fresh_proc().map_err(|error| format!("no /proc: {error}"))?;
    let range = IdRange { inside: 0, outside: USER, count: 1 };
    let map = [range, SUBORDINATE];
    let namespace = match UserNamespace::new(USER, USER, &map, &map) {
        Ok(namespace) => {
            report(Ability::UserNamespaces, Ok::<_, String>(()));
            Some(namespace)
        }
        Err(error) => {
            report(Ability::UserNamespaces, Err(error));
            None
        }
    };
    let mounted = trials::squashfs(&place);
    report(Ability::Squashfs, mounted.as_ref().map(drop));
    if mounted.is_ok() {
        for (number, _) in COMPRESSORS {
            report(Ability::Compressor(number), trials::compressor(&place, number));
        }
        if lazy {
            lazy::try_all(&place.layer_file());
        }
    }
    let Some(namespace) = namespace else { return Ok(()) };
    let mut lower = mounted.ok();
    if let Some(layer) = &lower {
        let mapped = trials::id_map(&place, layer, &namespace, &map);
        report(Ability::IdMaps, mapped.as_ref().map(drop));
        if let Ok(mapped) = &mapped {
            report(Ability::MetadataImages, trials::metadata_image(&place, mapped));
        }
        lower = mapped.ok();
    }
    report(Ability::Erofs, trials::erofs(&place, &namespace, &map));
    let writable = writable(&place, USER)?;
    trials::enter(&namespace).map_err(|error| format!("cannot enter a user namespace: {error}"))?;
    // Without such a mount the overlay is tried over a plain directory, so that each ability is told for itself.
    let lower = lower.unwrap_or_else(|| place.plain_layer());
    overlay_trials(&place, &writable, &lower, mount_program, Ids::Many);
    Ok(())
}

/// Makes the trials of an ordinary user, in their own namespace.
pub(crate) fn make_user_trials(mount_program: &Path) -> Result<(), String> {
    let place = begin()?;
    let writable = writable(&place, 0)?;
    overlay_trials(&place, &writable, &place.plain_layer(), mount_program, Ids::One);
    Ok(())
}

fn begin() -> Result<Place, String> {
    // Ends with the process that watches over the time.
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| format!("cannot set the death signal: {error}"))?;
    let place = Place::make().map_err(|error| format!("cannot mount a tmpfs for the trials: {error}"))?;
    report(Ability::TmpfsAttributes, trials::tmpfs_attributes(&place));
    Ok(place)
}

/// Directories for three overlays.
fn writable(place: &Place, user: u32) -> Result<[Writable; 3], String> {
    let make =
        |name| place.writable(name, user).map_err(|error| format!("cannot create directories for an overlay: {error}"));
    Ok([make("graph-kernel")?, make("graph-fuse")?, make("graph-mapped")?])
}

fn overlay_trials(place: &Place, writable: &[Writable; 3], lower: &Path, mount_program: &Path, map: Ids) {
    let [kernel, fuse, mapped] = writable;
    report(Ability::Overlay, trials::overlay(kernel, lower));
    report(Ability::Fuse, trials::fuse(place, fuse, mount_program, map, false));
    report(Ability::FuseIdMaps, trials::fuse(place, mapped, mount_program, map, true));
}
