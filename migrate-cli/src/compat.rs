//! The Go tool's command line, for the scripts that call it: `parallax --migrate|--rmi --podmanRoot R --roStoragePath S
//! --image I`, with its messages and exit codes. Images are stored as by `parallax migrate`.
//!
//! Exit codes: 0 for success, if there was nothing to do, and if a removal failed; 1 if a migration or the check of the
//! store failed; 2 for an invalid command line.

mod arguments;
mod log;
mod settings;
mod words;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use parallax_format::digest::ImageId;
use parallax_format::{ImageName, ImageRef, layout};
use parallax_store::{Store, Target};

pub(crate) use arguments::is_meant;
use arguments::{Arguments, Operation, Parsed, USAGE, parse};
use log::{Level, Log};

use crate::commands::find;
use crate::global::Global;
use crate::interrupt;
use crate::migration::Migration;
use crate::output;
use crate::progress::Progress;
use crate::source::registries::Registries;
use crate::source::{Access, LocalImage, Reference, Source, look_up_local, qualified_names};

/// Runs the command line (without the program's name).
pub(crate) fn run(line: &[String]) -> ExitCode {
    let arguments = match parse(line) {
        Ok(Parsed::Work(arguments)) => arguments,
        Ok(Parsed::Version) => {
            // The Go tool's line first: scripts read the first, or the third word. The other is as of all commands.
            let _ = output::print(&format!("Parallax version: {0}\nparallax {0}\n", env!("CARGO_PKG_VERSION")));
            return ExitCode::SUCCESS;
        }
        Ok(Parsed::Help) => {
            output::message(USAGE.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            output::message(&format!("{message}\n{}", USAGE.trim_end()));
            return ExitCode::from(2);
        }
    };
    let Arguments { image, level, .. } = &arguments;
    let (part, before) = match arguments.operation {
        Operation::Migrate => ("migration", "migration"),
        Operation::Remove => ("rmi", "rmi"),
    };
    let log = Log { level: *level, part };
    // Warnings about layers; the tool's own lines go to standard output.
    output::log_events(if *level >= Level::Warning { "warn" } else { "error" }, false);
    if let Err(error) = check_store(&arguments.store) {
        log.print(Level::Fatal, &format!("Storage validation failed before {before}: {error:#}"));
        return ExitCode::FAILURE;
    }
    let done = match arguments.operation {
        Operation::Migrate => migrate(&arguments, log),
        Operation::Remove => remove(&arguments, log),
    };
    match (done, arguments.operation) {
        (Ok(()), _) => ExitCode::SUCCESS,
        (Err(error), Operation::Migrate) => {
            log.print(Level::Fatal, &format!("Migration failed for image '{image}': {error:#}"));
            ExitCode::FAILURE
        }
        // Scripts rely on it.
        (Err(error), Operation::Remove) => {
            log.print(Level::Error, &format!("{error:#}"));
            ExitCode::SUCCESS
        }
    }
}

/// Refuses a directory that is not empty and not a store.
fn check_store(store: &Path) -> anyhow::Result<()> {
    const PARTS: [&str; 3] = [layout::OVERLAY, layout::OVERLAY_IMAGES, layout::OVERLAY_LAYERS];
    let mut entries = store.read_dir().with_context(|| format!("failed reading directory '{}'", store.display()))?;
    anyhow::ensure!(
        entries.next().is_none() || PARTS.iter().any(|part| store.join(part).exists()),
        "storage validation failed, non-empty and does not look like a podman-overlay store"
    );
    Ok(())
}

fn migrate(arguments: &Arguments, log: Log) -> anyhow::Result<()> {
    let name = &arguments.image;
    log.print(Level::Info, &format!("Starting migration for image: {name}"));
    let (settings, ignored) = settings::from_mksquashfs(&arguments.mksquashfs_options)?;
    if !ignored.is_empty() {
        log.print(Level::Warning, &format!("mksquashfs-opts without effect on layers: {}", ignored.join(" ")));
    }
    let names = Names::of(name)?;
    let store = Store::create_or_open(&arguments.store)?;
    let access = Access { tls_verify: true, podman_root: Some(arguments.podman_root.clone()), ..Access::default() };
    let reference = Reference::parse(&format!("containers-storage:{name}"))?.context("no source")?;
    let Some(found) = look_up_local(&reference, &access)? else {
        if names.find(&store)?.is_some() {
            log.print(Level::Info, "Image already migrated. Nothing to do.");
            return Ok(());
        }
        anyhow::bail!("Image not found: {name:?}");
    };
    interrupt::watch()?;
    let source = Source::open(reference.with_image(&found.source), access)?;
    let progress = Progress::new(&Global::of_store(&arguments.store), true);
    let migration = Migration::new(&store, settings, &progress);
    let mut unchanged = true;
    let (mut id, mut warnings) = (None, Vec::new());
    for name in names.to_store(&found) {
        let brought = migration.bring(&source, &name)?;
        unchanged &= brought.unchanged;
        (id, warnings) = (Some(brought.id), brought.warnings);
    }
    for warning in warnings {
        log.print(Level::Warning, &warning);
    }
    let id = id.context("the image has no name")?;
    if unchanged {
        log.print(Level::Info, "Image already migrated. Nothing to do.");
    } else {
        log.print(Level::Info, &format!("Migration successfully completed for image: {id}"));
    }
    Ok(())
}

/// Removes the image with all its names, whichever of them was given.
fn remove(arguments: &Arguments, log: Log) -> anyhow::Result<()> {
    let name = &arguments.image;
    log.print(Level::Info, &format!("Starting removal of image: {name}"));
    let store = Store::open(&arguments.store)?;
    let id = Names::of(name)?
        .find(&store)?
        .with_context(|| format!("Could not locate image {name}: Image not found: {name:?}"))?;
    let (record, _) = find::record(&store, &id).with_context(|| format!("Could not locate image {name}"))?;
    log.print(Level::Info, &format!("Removing Image from store {id}"));
    let failed = || format!("Failed to delete image {id} via storage");
    let names = record.names.iter().filter_map(|name| ImageName::for_storing(name).ok());
    for name in names.skip(1) {
        store.remove(&Target::Name(name), false).with_context(failed)?;
    }
    store.remove(&Target::Image(id), false).with_context(failed)?;
    log.print(Level::Info, &format!("Removal successfully completed for image: {name}"));
    Ok(())
}

/// The forms in which a storage may list a name: with or without registry and tag.
#[derive(Debug)]
struct Names {
    given: String,
    /// The fully qualified names that Podman tries for it, most likely first.
    qualified: Vec<String>,
}

impl Names {
    /// # Errors
    /// The name is invalid, or the configuration of short names cannot be read.
    fn of(given: &str) -> anyhow::Result<Self> {
        Ok(Self { given: given.to_owned(), qualified: qualified_names(given, &Registries::load()?)? })
    }

    /// The id of the store's image with such a name.
    fn find(&self, store: &Store) -> anyhow::Result<Option<ImageId>> {
        for name in std::iter::once(&self.given).chain(&self.qualified) {
            if let Some(found) = find::find_if_there(store, name)?.filter(|found| found.name.is_some()) {
                return Ok(Some(found.id));
            }
        }
        Ok(None)
    }

    /// The names to store an image under: those it was found by, and the given one if it is another.
    fn to_store(&self, found: &LocalImage) -> Vec<ImageName> {
        let mut names = found.names.clone();
        // An id, the start of one, or a digest is no name.
        let is_id = found.source.strip_prefix('@').is_some_and(|id| id.starts_with(&self.given));
        let is_name = !is_id && matches!(ImageRef::parse(&self.given), Ok(ImageRef::Name(_)));
        let given = ImageName::for_storing(&self.given).ok().filter(|name| is_name && !names.contains(name));
        names.extend(given);
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_stored_under_the_name_it_was_found_by_and_the_given_one() {
        let names = |given: &str, found: &str| {
            let names = Names { given: given.to_owned(), qualified: Vec::new() };
            let found = [ImageName::for_storing(found).unwrap()];
            let stored = names.to_store(&LocalImage { source: format!("@{}", "a".repeat(64)), names: found.into() });
            stored.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names("quay.io/a/b", "quay.io/a/b:latest"), ["quay.io/a/b:latest"]);
        let alpine = "docker.io/library/alpine:3.22.1";
        assert_eq!(names("alpine:3.22.1", alpine), [alpine, "localhost/alpine:3.22.1"]);
        assert_eq!(names(&"a".repeat(64), alpine), [alpine]);
        assert_eq!(names("aaaa", alpine), [alpine]);
    }

    #[test]
    fn what_may_be_a_store() {
        let directory = tempfile::tempdir().unwrap();
        assert!(check_store(directory.path()).is_ok());
        std::fs::write(directory.path().join("file"), "").unwrap();
        assert!(
            check_store(directory.path())
                .unwrap_err()
                .to_string()
                .contains("does not look like a podman-overlay store")
        );
        std::fs::create_dir(directory.path().join("overlay-layers")).unwrap();
        assert!(check_store(directory.path()).is_ok());
    }
}
