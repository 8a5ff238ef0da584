//! The Go tool's command line, for the scripts that call it: `parallax --migrate|--rmi --podmanRoot R --roStoragePath S
//! --image I`, with its messages and exit codes. What it brings into the store is what `parallax migrate` brings.
//!
//! Exit codes: 0 if all was done, if there was nothing to do, and if a removal failed; 1 if a migration or the check of the
//! store failed; 2 if the command line is wrong.

mod arguments;
mod log;
mod settings;
mod words;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use parallax_names::ImageName;
use parallax_store::open::TrustedStore;
use parallax_store::{Store, Target};

pub use arguments::is_meant;
use arguments::{Arguments, Operation, Parsed, USAGE, parse};
use log::{Level, Log};

use crate::cli::Global;
use crate::commands::find;
use crate::interrupt;
use crate::migration::Migration;
use crate::progress::Progress;
use crate::source::{Access, Reference, Source, candidates};

/// Does what the command line (without the program's name) says.
pub fn run(line: &[String]) -> ExitCode {
    let arguments = match parse(line) {
        Ok(Parsed::Work(arguments)) => arguments,
        Ok(Parsed::Version) => {
            // The Go tool's line first: scripts read the first, or the third word. The other is as of all commands.
            println!("Parallax version: {0}\nparallax {0}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Ok(Parsed::Help) => {
            eprint!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("{message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let Arguments { image, level, .. } = &arguments;
    let (part, before) = match arguments.operation {
        Operation::Migrate => ("migration", "migration"),
        Operation::Remove => ("rmi", "rmi"),
    };
    let log = Log { level: *level, part };
    if let Err(error) = check_store(&arguments.store) {
        log.say(Level::Fatal, &format!("Storage validation failed before {before}: {error:#}"));
        return ExitCode::FAILURE;
    }
    let done = match arguments.operation {
        Operation::Migrate => migrate(&arguments, log),
        Operation::Remove => remove(&arguments, log),
    };
    match (done, arguments.operation) {
        (Ok(()), _) => ExitCode::SUCCESS,
        (Err(error), Operation::Migrate) => {
            log.say(Level::Fatal, &format!("Migration failed for image '{image}': {error:#}"));
            ExitCode::FAILURE
        }
        // Scripts count on it.
        (Err(error), Operation::Remove) => {
            log.say(Level::Error, &format!("{error:#}"));
            ExitCode::SUCCESS
        }
    }
}

/// Refuses a directory that has something in it and is no store.
fn check_store(store: &Path) -> anyhow::Result<()> {
    const PARTS: [&str; 3] = ["overlay", "overlay-images", "overlay-layers"];
    let mut entries = store.read_dir().with_context(|| format!("failed reading directory '{}'", store.display()))?;
    anyhow::ensure!(
        entries.next().is_none() || PARTS.iter().any(|part| store.join(part).exists()),
        "storage validation failed, non-empty and does not look like a podman-overlay store"
    );
    Ok(())
}

fn migrate(arguments: &Arguments, log: Log) -> anyhow::Result<()> {
    let name = &arguments.image;
    log.say(Level::Info, &format!("Starting migration for image: {name}"));
    let (settings, ignored) = settings::from_mksquashfs(&arguments.mksquashfs_options)?;
    if !ignored.is_empty() {
        log.say(Level::Warning, &format!("mksquashfs-opts without effect on layers: {}", ignored.join(" ")));
    }
    let names = Names::of(name);
    let store = Store::create_or_open(&arguments.store)?;
    let Some(source_name) = names.find_in(&arguments.podman_root)? else {
        if names.find(&store)?.is_some() {
            log.say(Level::Info, "Image already migrated. Nothing to do.");
            return Ok(());
        }
        anyhow::bail!("Image not found: {name:?}");
    };
    interrupt::watch()?;
    let access = Access { tls_verify: true, podman_root: Some(arguments.podman_root.clone()), ..Access::default() };
    let reference = Reference::parse(&format!("containers-storage:{source_name}"))?;
    let source = Source::open(reference.context("no source")?, access)?;
    let progress = Progress::new(&Global::of_store(&arguments.store), true);
    let migration = Migration::new(&store, settings, &progress);
    let mut unchanged = true;
    let mut id = String::new();
    for name in names.to_store()? {
        let brought = migration.bring(&source, &name)?;
        unchanged &= brought.unchanged;
        id = brought.id;
    }
    if unchanged {
        log.say(Level::Info, "Image already migrated. Nothing to do.");
    } else {
        log.say(Level::Info, &format!("Migration successfully completed for image: {id}"));
    }
    Ok(())
}

/// Removes the image with all its names, whichever of them was given.
fn remove(arguments: &Arguments, log: Log) -> anyhow::Result<()> {
    let name = &arguments.image;
    log.say(Level::Info, &format!("Starting removal of image: {name}"));
    let store = Store::open(&arguments.store)?;
    let id = Names::of(name)
        .find(&store)?
        .with_context(|| format!("Could not locate image {name}: Image not found: {name:?}"))?;
    let (record, _) = find::record(&store, &id).with_context(|| format!("Could not locate image {name}"))?;
    log.say(Level::Info, &format!("Removing Image from store {id}"));
    let failed = || format!("Failed to delete image {id} via storage");
    let names = record.names.iter().filter_map(|name| ImageName::for_storing(name).ok());
    for name in names.skip(1) {
        store.remove(&Target::Name(name), false).with_context(failed)?;
    }
    store.remove(&Target::Image(id.clone()), false).with_context(failed)?;
    log.say(Level::Info, &format!("Removal successfully completed for image: {name}"));
    Ok(())
}

/// What a name may be in a storage: it need not have a registry, nor a tag.
#[derive(Debug)]
struct Names {
    given: String,
    /// With a tag.
    tagged: String,
    /// What it is with Podman's name for local images before it; none if it has a registry.
    local: Option<String>,
    /// What `podman pull` would take it for first.
    canonical: Option<String>,
}

impl Names {
    fn of(given: &str) -> Self {
        let (repository, tag) = match given.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, tag),
            _ => (given, "latest"),
        };
        let first = repository.split_once('/').map_or("", |(first, _)| first);
        let has_registry = first == "localhost" || first.contains(['.', ':']);
        let tagged = format!("{repository}:{tag}");
        let local = (!has_registry).then(|| format!("localhost/{tagged}"));
        let canonical = match has_registry {
            true => Some(tagged.clone()),
            false => candidates(given, false).ok().and_then(|all| Some(all.first()?.rest.clone())),
        };
        Self { given: given.to_owned(), tagged, local, canonical }
    }

    fn all(&self) -> impl Iterator<Item = &String> {
        [&self.given, &self.tagged].into_iter().chain(&self.local).chain(&self.canonical)
    }

    /// The name that an image of Podman's storage has, if one fits.
    fn find_in(&self, root: &Path) -> anyhow::Result<Option<String>> {
        let images = TrustedStore::open_lenient(root)?.foreign_images()?;
        let has = |name: &&String| images.iter().any(|image| image.names_as_listed().contains(name));
        Ok(self.all().find(has).cloned())
    }

    /// The id of the store's image with such a name.
    fn find(&self, store: &Store) -> anyhow::Result<Option<String>> {
        for name in self.all() {
            if let Some(found) = find::find_if_there(store, name)?.filter(|found| found.name.is_some()) {
                return Ok(Some(found.id));
            }
        }
        Ok(None)
    }

    /// The names to store an image under: the whole one, and the given one if it is another.
    fn to_store(&self) -> anyhow::Result<Vec<ImageName>> {
        let mut names = Vec::new();
        for text in self.canonical.iter().chain([&self.given]) {
            let name = ImageName::for_storing(text)?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_and_without_a_registry() {
        let names = Names::of("quay.io/a/b");
        assert!(names.all().all(|name| name.starts_with("quay.io/a/b")));
        assert_eq!(names.to_store().unwrap(), [ImageName::for_storing("quay.io/a/b:latest").unwrap()]);
        let names = Names::of("tool:1");
        assert_eq!(names.local.as_deref(), Some("localhost/tool:1"));
        assert!(names.to_store().unwrap().contains(&ImageName::for_storing("localhost/tool:1").unwrap()));
        assert_eq!(Names::of("localhost:5000/a").tagged, "localhost:5000/a:latest");
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
