//! The image stores.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use parallax_config::{Agent, Owner};
use parallax_format::layout;
use parallax_format::squashfs::Superblock;
use parallax_store::read::{OpenError, TrustedStore, listed_images};
use parallax_sys::verity;

use super::check::Check;
use super::squashed::{self, TOPIC};
use crate::units;

/// Maximum number of layers that are looked at.
const MAX_LAYERS: usize = 1000;
/// Permissions that let others replace files in a directory, and the one that forbids it nevertheless.
const OTHERS_MAY_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Checks each store.
pub(super) fn check(stores: &[PathBuf], config: &Agent, is_root: bool) -> Vec<Check> {
    stores.iter().flat_map(|store| one(store, config, is_root)).collect()
}

fn one(path: &Path, config: &Agent, is_root: bool) -> Vec<Check> {
    let store = match TrustedStore::open(path) {
        Ok(store) => store,
        Err(error) => return vec![unusable(path, &error, is_root)],
    };
    let mut checks = Vec::new();
    if is_root {
        checks.extend(squashed::check(path, &owner_name(store.owner()), config));
    }
    match image_count(path) {
        // Already reported, with its reason.
        Err(error) if is_root && error.kind() == std::io::ErrorKind::PermissionDenied => {}
        Ok(count) => checks.push(Check::ok(TOPIC, format!("{} has {}", path.display(), units::count(count, "image")))),
        Err(error) => {
            let finding = format!("{} cannot be read: {error}", path.display());
            checks.push(Check::problem(TOPIC, finding, "make the store readable, best for all users"));
        }
    }
    checks.extend(unpacked(&store));
    checks.extend(checked_by_kernel(path));
    checks.extend(exchangeable(path));
    checks.extend(without_locks(path));
    checks.push(owner(path, store.owner(), config));
    checks
}

fn unusable(path: &Path, error: &OpenError, is_root: bool) -> Check {
    let remedy = match error {
        OpenError::Store { cause, .. } if is_root && cause.kind() == std::io::ErrorKind::PermissionDenied => {
            return squashed::no_reading(path, path, "its owner");
        }
        OpenError::NotTrusted { .. } => format!("chmod go-w {}", path.display()),
        _ => "mount its file system here, or correct \"stores\" in the configuration".to_owned(),
    };
    Check::problem(TOPIC, error.to_string(), remedy)
}

/// Returns the number of images: those with records, and those that only Podman's list has.
fn image_count(path: &Path) -> std::io::Result<usize> {
    let absent = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    let mut ids: BTreeSet<String> = match fs::read_dir(path.join(layout::RECORDS)) {
        Ok(entries) => {
            let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
            names.filter_map(|name| Some(name.strip_suffix(".json")?.to_owned())).collect()
        }
        Err(error) if absent(&error) => BTreeSet::new(),
        Err(error) => return Err(error),
    };
    match fs::read(path.join(layout::IMAGES_JSON)) {
        Ok(list) if !list.is_empty() => ids.extend(listed_images(&list)?.into_iter().map(|image| image.id)),
        Err(error) if !absent(&error) => return Err(error),
        _ => {}
    }
    Ok(ids.len())
}

/// Returns a finding about images that lie unpacked elsewhere, if there are any.
fn unpacked(store: &TrustedStore) -> Option<Check> {
    // A list that cannot be read is reported as such.
    let images = store.images_but(&BTreeSet::new()).ok()?;
    let directories: Vec<PathBuf> = images.iter().filter_map(|image| store.unpacked(image).ok().flatten()).collect();
    let has =
        format!("{} has {} in directories elsewhere", store.path().display(), units::count(directories.len(), "image"));
    let missing: Vec<&PathBuf> = directories.iter().filter(|directory| !directory.is_dir()).collect();
    match missing.first() {
        Some(first) => {
            let (missing, first) = (missing.len(), first.display());
            let finding = format!("{has}, and {missing} of these directories cannot be found, such as {first}");
            Some(Check::problem(TOPIC, finding, "mount the file system of that directory here, or remove the images"))
        }
        None if directories.is_empty() => None,
        None => Some(Check::ok(TOPIC, has)),
    }
}

/// Returns a finding about the files of layers that the kernel checks whenever it reads them, if there are any; at most a thousand are looked at.
fn checked_by_kernel(path: &Path) -> Option<Check> {
    let entries = fs::read_dir(path.join(layout::LAYERS)).ok()?.flatten().map(|entry| entry.path());
    let is_file = |path: &PathBuf| path.extension().is_some_and(|end| end == layout::SQUASHFS || end == layout::EROFS);
    let files: Vec<PathBuf> = entries.filter(is_file).take(MAX_LAYERS).collect();
    let is_checked = |path: &&PathBuf| File::open(path).ok().and_then(verity::measure).is_some();
    // File systems of servers have no fs-verity: one question to them is enough.
    let checked = files.first().filter(is_checked).map(|_| files.iter().filter(is_checked).count())?;
    let (count, path) = (files.len(), path.display());
    Some(Check::ok(
        TOPIC,
        format!("the kernel checks {checked} of {count} files of layers in {path} when they are read (fs-verity)"),
    ))
}

/// Returns a finding if the file system has no locks, which Podman needs.
fn without_locks(path: &Path) -> Option<Check> {
    let has_locks = parallax_store::has_locks(path).unwrap_or(true);
    let finding = format!(
        "the file system of {} has no locks: writers use the lock file parallax/lock and jobs are not affected, but a Podman that \
         reads the store itself blocks",
        path.display()
    );
    let remedy = "mount it with locks: Lustre with -o flock, NFS with lockd or as version 4";
    (!has_locks).then(|| Check::warning(TOPIC, finding, remedy))
}

/// Returns a directory above the store in which other users may replace the store.
fn exchangeable(path: &Path) -> Option<Check> {
    let real = fs::canonicalize(path).ok()?;
    let weak = real.ancestors().skip(1).find(|directory| {
        fs::metadata(directory)
            .is_ok_and(|metadata| metadata.mode() & OTHERS_MAY_WRITE != 0 && metadata.mode() & STICKY == 0)
    })?;
    let finding = format!(
        "other users than the owner may write in {} and can replace the store {}",
        weak.display(),
        path.display()
    );
    Some(Check::problem(TOPIC, finding, format!("chmod go-w {}", weak.display())))
}

/// Returns the name of a user, or the number of an unknown one.
fn owner_name(uid: u32) -> String {
    nix::unistd::User::from_uid(uid.into()).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

fn owner(path: &Path, owner: u32, config: &Agent) -> Check {
    let name = owner_name(owner);
    let is_trusted = config.trusted_owners.iter().any(|trusted| match trusted {
        Owner::Id(id) => *id == owner,
        Owner::Name(trusted) => *trusted == name,
    });
    let path = path.display();
    if is_trusted {
        Check::ok(TOPIC, format!("{path} belongs to {name}, whom the kernel may trust"))
    } else {
        let finding = format!("{path} belongs to {name}: its images are mounted by FUSE only");
        Check::warning(TOPIC, finding, "if nobody else writes it, name the owner in agent.trusted_owners")
    }
}

/// Returns the compressors of the stores' layers, by their number in the superblock; at most a thousand layers of each store are
/// read.
pub(super) fn compressors(stores: &[PathBuf]) -> BTreeSet<u16> {
    let layers = stores.iter().flat_map(|store| {
        let directories = [layout::LAYERS, layout::SQUASH].map(|name| fs::read_dir(store.join(name)));
        let files = directories.into_iter().flatten().flatten().flatten().map(|entry| entry.path());
        files
            .filter(|path| path.extension().is_some_and(|end| end == layout::SQUASHFS))
            .take(MAX_LAYERS)
            .collect::<Vec<_>>()
    });
    layers.filter_map(|path| compressor(&path)).collect()
}

/// Returns `true` if a store has a layer in EROFS alone.
pub(super) fn need_erofs(stores: &[PathBuf]) -> bool {
    let directories = stores.iter().filter_map(|store| fs::read_dir(store.join(layout::LAYERS)).ok());
    let mut files = directories.flatten().flatten().map(|entry| entry.path());
    files.any(|path| {
        path.extension().is_some_and(|end| end == layout::EROFS) && !path.with_extension(layout::SQUASHFS).exists()
    })
}

fn compressor(path: &Path) -> Option<u16> {
    let mut start = Vec::new();
    File::open(path).ok()?.take(Superblock::BYTES).read_to_end(&mut start).ok()?;
    Superblock::parse(&start).map(|superblock| superblock.compressor)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use parallax_format::squashfs::MAGIC;

    use super::super::check::State;
    use super::*;

    fn states(store: &Path) -> Vec<State> {
        let own = Owner::Id(nix::unistd::getuid().as_raw());
        let config = Agent { trusted_owners: vec![own], ..Agent::default() };
        one(store, &config, false).iter().map(|check| check.state).collect()
    }

    #[test]
    fn stores_are_judged() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("store");
        assert_eq!(states(&store), [State::Problem]);
        fs::create_dir_all(store.join("parallax/images")).unwrap();
        fs::set_permissions(&store, Permissions::from_mode(0o755)).unwrap();
        fs::write(store.join("parallax/images/a.json"), "{}").unwrap();
        assert_eq!(states(&store), [State::Ok, State::Ok]);
        let finding = |at: usize| one(&store, &Agent::default(), false)[at].finding.clone();
        assert!(finding(0).ends_with("has 1 image"), "{}", finding(0));
        // One that lies unpacked is in Podman's list only, and its directory may not be there.
        let (id, place) = ("ab".repeat(32), directory.path().join("place"));
        fs::create_dir_all(store.join("overlay-images")).unwrap();
        fs::create_dir_all(store.join("overlay").join(&id)).unwrap();
        fs::write(store.join("overlay-images/images.json"), format!(r#"[{{"id":"{id}","layer":"{id}"}}]"#)).unwrap();
        std::os::unix::fs::symlink(&place, store.join("overlay").join(&id).join("diff")).unwrap();
        assert_eq!(states(&store), [State::Ok, State::Problem, State::Ok]);
        assert!(
            finding(0).ends_with("has 2 images") && finding(1).contains("1 of these directories cannot be found"),
            "{}",
            finding(1)
        );
        fs::create_dir(&place).unwrap();
        assert_eq!(states(&store), [State::Ok, State::Ok, State::Ok]);
        fs::remove_file(store.join("overlay-images/images.json")).unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        assert_eq!(states(&store), [State::Ok, State::Problem, State::Ok]);
        fs::set_permissions(&store, Permissions::from_mode(0o775)).unwrap();
        assert_eq!(states(&store), [State::Problem]);
    }

    #[test]
    fn an_untrusted_owner_is_reported() {
        let config = Agent { trusted_owners: vec![Owner::Id(7)], ..Agent::default() };
        assert_eq!(owner(Path::new("/s"), 7, &config).state, State::Ok);
        assert_eq!(owner(Path::new("/s"), 8, &config).state, State::Warning);
    }

    #[test]
    fn a_layer_in_erofs_alone_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let layers = directory.path().join("parallax/layers");
        fs::create_dir_all(&layers).unwrap();
        let needed = || need_erofs(&["/nonexistent".into(), directory.path().to_owned()]);
        fs::write(layers.join("a.squash"), "").unwrap();
        fs::write(layers.join("a.erofs"), "").unwrap();
        assert!(!needed());
        fs::write(layers.join("b.erofs"), "").unwrap();
        assert!(needed());
    }

    #[test]
    fn compressors_are_read_from_superblocks() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("parallax/layers")).unwrap();
        for (name, number) in [("a", 6), ("b", 6), ("c", 4)] {
            let mut bytes = vec![0; 96];
            bytes[..4].copy_from_slice(MAGIC);
            bytes[20] = number;
            fs::write(directory.path().join(format!("parallax/layers/{name}.squash")), bytes).unwrap();
        }
        fs::write(directory.path().join("parallax/layers/short.squash"), "x").unwrap();
        assert_eq!(compressors(&[directory.path().to_owned(), "/nonexistent".into()]), BTreeSet::from([4, 6]));
    }
}
