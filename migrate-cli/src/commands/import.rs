//! `parallax import`: adds images that lie unpacked elsewhere to a store, so that Podman finds them without an agent, too.

mod metadata;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use parallax_format::digest::ImageId;
use parallax_format::oci::{EXECUTION_KEYS, Platform};
use parallax_format::record::ImageRecord;
use parallax_format::{ImageRef, ducc, nearest, unknown_image};
use parallax_store::hash::sha256;
use parallax_store::{Store, Unpacked};
use parallax_sys::root::Root;
use parallax_trees::{Files, Image, Repository, known_names};
use serde::Serialize;
use serde_json::{Map, Value, json};

use self::metadata::{Maker, Wanted};
use super::each::each;
use super::verify::trees::problems_of;
use crate::global::Global;
use crate::image::time_of_build;
use crate::interrupt;
use crate::output::print_json;
use crate::progress::Progress;
use crate::units;

/// Maximum size of Apptainer's script in bytes.
const MAX_SCRIPT: u64 = 4 << 20;

/// Options of `parallax import`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Repository of unpacked images in DUCC's layout, or of unpacked layers beside an OCI layout: an absolute path that is the same on all hosts
    #[arg(long, value_name = "ROOT")]
    unpacked: PathBuf,
    /// Public names of images in the repository [default: all]
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Add a file with the owners and modes of each image's files, about 40 bytes each: nodes show them with it. Images that lie in layers always
    /// get one
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    metadata: Wanted,
    /// Print a JSON array with one object for each image
    #[arg(long)]
    json: bool,
}

/// Result of one image in the JSON form. Future versions only add fields.
#[derive(Debug, Serialize)]
struct Outcome {
    /// The image as given, or its public name.
    image: String,
    /// The name in the store.
    name: String,
    /// The image id.
    id: ImageId,
    /// The image's directory, or the repository if it lies there in layers.
    directory: PathBuf,
    /// The directories of its layers below that, the topmost first; empty for an image that is one directory.
    parts: Vec<String>,
    /// `true` if the store had all of it, so that nothing was written.
    unchanged: bool,
    /// `true` if the store has a metadata image of it.
    metadata: bool,
    /// What the repository lacks of the image; it can be run nevertheless.
    problems: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// If any image could not be imported; the others have been.
pub(crate) fn run(global: &Global, options: &Options) -> anyhow::Result<()> {
    let root = &options.unpacked;
    ensure!(root.is_absolute(), "{} is not an absolute path, and the store keeps the path", root.display());
    ensure!(root.is_dir(), "{} is not there; mount its file system", root.display());
    let store = Store::create_or_open(&global.store()?)?;
    interrupt::watch()?;
    let progress = Progress::new(global, options.json);
    let every: Vec<String>;
    let images = if options.images.is_empty() {
        every = Repository::new(root).names()?.into_iter().collect();
        &every
    } else {
        &options.images
    };
    let mut outcomes = Vec::new();
    let mut maker = Maker::new(&store, root, options.metadata)?;
    let done = each(images, "imported", |image| {
        let outcome = import(&store, root, image, &mut maker)?;
        let what = if outcome.unchanged { "in the store already, nothing to do" } else { "imported" };
        progress.line(&format!("{}: {what} ({})", outcome.name, outcome.id.short()));
        for problem in &outcome.problems {
            tracing::warn!("{}: {problem}", outcome.name);
        }
        outcomes.push(outcome);
        Ok(())
    });
    if options.json {
        print_json(&outcomes)?;
    } else if images.is_empty() {
        progress.line(&format!("{} has no image with a public name, nothing to do", root.display()));
    }
    done
}

fn import(store: &Store, root: &Path, text: &str, maker: &mut Maker<'_>) -> anyhow::Result<Outcome> {
    let image = find(root, text)?;
    let public = image.name.as_deref().with_context(|| format!("{text} is no public name of the repository"))?;
    let name = ducc::image_name(public).with_context(|| format!("{public} cannot be the name of an image"))?;
    let (directory, parts) = match image.files(sha256)? {
        Some(Files::Directory(directory)) => (directory, Vec::new()),
        Some(Files::Layers(parts)) => (root.to_owned(), parts),
        None => bail!(
            "the repository has the image {} neither in {} nor in layers: it was not unpacked, or a garbage collection took it; have it \
             published again",
            image.id.short(),
            image.directory().display()
        ),
    };
    let configuration = configuration(&image)?;
    let created = configuration.get("created").and_then(Value::as_str);
    // A manifest may be that of another image.
    let manifest = image.manifest()?.filter(|manifest| manifest.config.digest.ends_with(image.id.as_str()));
    let unpacked = Unpacked {
        id: image.id,
        name,
        created: time_of_build(created),
        configuration,
        size: manifest.map_or(0, |manifest| units::total(manifest.layers.iter().map(|layer| layer.size))),
        directory,
        parts,
    };
    let with_metadata = maker.is_wanted(!unpacked.parts.is_empty())?;
    let has_files = |record: &ImageRecord| record.tree().is_none() && record.names.contains(&unpacked.name.to_string());
    let is_there = store.record(&image.id)?.is_some_and(|record| has_files(&record))
        || store.has_import(&unpacked, with_metadata)?;
    if !is_there {
        let made = with_metadata.then(|| maker.make(&unpacked.directory, &unpacked.parts));
        let metadata = made.transpose()?;
        let _uninterrupted = interrupt::hold();
        store.import(&unpacked, metadata.as_ref())?;
    }
    let metadata = store.record(&image.id)?.is_some_and(|record| record.tree().is_some());
    let Unpacked { name, directory, parts, .. } = unpacked;
    let problems = problems_of(&image);
    Ok(Outcome {
        image: text.to_owned(),
        name: name.to_string(),
        id: image.id,
        directory,
        parts,
        unchanged: is_there,
        metadata,
        problems,
    })
}

/// Finds an image by its public name, or by what users may write for that.
fn find(root: &Path, text: &str) -> anyhow::Result<Image> {
    let repository = Repository::new(root);
    // Names as the repository has them come first: that of a registry without a tag is one, and Docker Hub has another host.
    let exact = if ducc::image_name(text).is_some() { repository.image_at(text)? } else { None };
    if let Some(image) = exact {
        return Ok(image);
    }
    let found = repository.image(&ImageRef::parse(text)?)?;
    found.with_context(|| {
        let roots = [root.to_owned()];
        unknown_image(text, &[root.display().to_string()], &nearest(text, &known_names(&roots)))
    })
}

/// Returns the image's configuration, or one with the variables that Apptainer's script sets.
fn configuration(image: &Image) -> anyhow::Result<Map<String, Value>> {
    let path = image.configuration_path();
    if let Some(text) = image.configuration_file()? {
        ensure!(
            ImageId::from(sha256(text.as_bytes())) == image.id,
            "{} is not the image's configuration, perhaps the error of a registry; have DUCC publish the image again, or put it into \
             a store with parallax migrate",
            path.display()
        );
        return serde_json::from_str(&text).with_context(|| format!("{} is no configuration", path.display()));
    }
    // A link of the image leads to no file of this host.
    let flat = image.directory();
    let script =
        if flat.is_dir() { Root::open(&flat)?.read(Path::new(ducc::APPTAINER_VARIABLES), MAX_SCRIPT)? } else { None };
    let variables = script.map(|script| ducc::apptainer_variables(&String::from_utf8_lossy(&script)));
    let Platform { os, architecture, .. } = Platform::of_this_machine();
    let mut configuration = Map::new();
    configuration.insert("os".to_owned(), os.into());
    configuration.insert("architecture".to_owned(), architecture.into());
    configuration.insert("config".to_owned(), json!({ EXECUTION_KEYS.environment: variables.unwrap_or_default() }));
    Ok(configuration)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use parallax_format::digest::Digest;
    use parallax_store::Target;

    use super::*;

    const NAME: &str = "quay.io/a/b:1";

    /// A repository with one image, and a store.
    struct Site {
        directory: tempfile::TempDir,
        store: Store,
    }

    impl Site {
        fn new(configuration: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let id = ImageId::from(sha256(configuration.as_bytes()));
            let site = Self { store: Store::create_or_open(&directory.path().join("store")).unwrap(), directory };
            let root = site.root();
            let configured = root.join(ducc::configuration(&id));
            for path in [&root.join(ducc::flat(&id)).join("usr"), &root.join("quay.io/a"), configured.parent().unwrap()]
            {
                fs::create_dir_all(path).unwrap();
            }
            fs::write(configured, configuration).unwrap();
            symlink(Path::new("../..").join(ducc::flat(&id)), root.join(NAME)).unwrap();
            site
        }

        fn root(&self) -> PathBuf {
            self.directory.path().join("repository")
        }

        fn image(&self) -> Image {
            find(&self.root(), NAME).unwrap()
        }

        fn import(&self) -> anyhow::Result<Outcome> {
            import(&self.store, &self.root(), NAME, &mut self.maker(Wanted::Never))
        }

        fn maker(&self, wanted: Wanted) -> Maker<'_> {
            Maker::new(&self.store, &self.root(), wanted).unwrap()
        }

        fn refusal(&self) -> String {
            format!("{:#}", self.import().unwrap_err())
        }
    }

    #[test]
    fn an_image_is_imported_once_and_what_it_lacks_is_said() {
        let site = Site::new(r#"{"created":"2026-01-01T02:00:00+02:00","config":{"Env":["A=b"]}}"#);
        let outcome = site.import().unwrap();
        assert!(!outcome.unchanged && outcome.directory == site.image().directory());
        assert!(
            outcome.problems.iter().any(|problem| problem.contains("lost the dot files")),
            "{:?}",
            outcome.problems
        );
        assert!(site.import().unwrap().unchanged);
        let listing = parallax_store::read::list(site.store.root()).unwrap();
        assert_eq!(listing.unpacked[0].created, "2026-01-01T00:00:00Z");
        assert!(find(&site.root(), "quay.io/a/b:2").unwrap_err().to_string().contains(NAME));
        let by_id = import(&site.store, &site.root(), site.image().id.as_str(), &mut site.maker(Wanted::Never));
        assert!(by_id.is_err());
    }

    #[test]
    fn a_metadata_image_is_added_to_an_image_without_one() {
        let site = Site::new("{}");
        let mut maker = site.maker(Wanted::Always);
        assert!(!site.import().unwrap().metadata);
        let mut import = || import(&site.store, &site.root(), NAME, &mut maker).unwrap();
        let first = import();
        assert!(first.metadata && !first.unchanged && import().unchanged);
        // Without the wish for one it stays.
        let again = site.import().unwrap();
        assert!(again.metadata && again.unchanged);
        let record = site.store.image(&site.image().id).unwrap().unwrap();
        assert_eq!(record.tree(), Some(site.image().directory().as_path()));
        let mut verifier = parallax_store::Verifier::new(&site.store).unwrap();
        verifier.image(&record.id).unwrap();
        verifier.index().unwrap();
        assert_eq!(verifier.problems(), []);
    }

    #[test]
    fn an_image_in_layers_is_imported_with_a_metadata_image() {
        let site = Site::new("{}");
        let (id, root) = (site.image().id, site.root());
        fs::remove_dir_all(site.image().directory()).unwrap();
        let layers = ["01", "02"].map(|part| Digest::parse(&format!("sha256:{}", part.repeat(32))).unwrap());
        let listed = layers.map(|layer| format!(r#"{{"digest":"{layer}","size":1}}"#)).join(",");
        let manifest = root.join(ducc::manifest(Path::new(NAME)));
        fs::create_dir_all(manifest.parent().unwrap()).unwrap();
        fs::write(&manifest, format!(r#"{{"config":{{"digest":"sha256:{id}","size":1}},"layers":[{listed}]}}"#))
            .unwrap();
        assert!(site.refusal().contains("neither in"), "{}", site.refusal());
        for (layer, file) in [(&layers[0], "usr/old"), (&layers[1], "usr/.wh.old")] {
            let file = root.join(ducc::layer(layer)).join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "text").unwrap();
        }
        assert!(site.refusal().contains("leave out --metadata=never"), "{}", site.refusal());
        let mut maker = site.maker(Wanted::Auto);
        let mut import = || import(&site.store, &root, NAME, &mut maker).unwrap();
        let first = import();
        assert!(first.metadata && !first.unchanged && first.directory == root && import().unchanged);
        assert_eq!(first.parts, [ducc::layer(&layers[1]), ducc::layer(&layers[0])]);
        let record = site.store.image(&id).unwrap().unwrap();
        assert_eq!((record.tree(), record.parts()), (Some(root.as_path()), first.parts.as_slice()));
        let problems = || {
            let mut verifier = parallax_store::Verifier::new(&site.store).unwrap();
            verifier.image(&id).unwrap();
            verifier.index().unwrap();
            verifier.problems().iter().map(|problem| problem.what.clone()).collect::<Vec<_>>()
        };
        assert_eq!(problems(), Vec::<String>::new());
        // Once the image is published in a directory of its own, that is used; and the layers are again when it is collected.
        for directory in [root.join(ducc::flat(&id)), root.clone()] {
            let flat = root.join(ducc::flat(&id));
            if directory == flat {
                fs::create_dir_all(flat.join("usr")).unwrap();
            } else {
                fs::remove_dir_all(flat).unwrap();
            }
            let again = import();
            assert!(!again.unchanged && again.directory == directory, "{again:?}");
            assert_eq!(problems(), Vec::<String>::new());
        }
        fs::remove_dir_all(root.join(ducc::layer(&layers[0]))).unwrap();
        assert!(problems()[0].contains(&ducc::layer(&layers[0])), "{:?}", problems());
        site.store.remove(&Target::Image(id), false).unwrap();
        assert_eq!(problems(), ["is not there"]);
    }

    #[test]
    fn what_would_be_another_image_or_none_is_refused() {
        let site = Site::new("{}");
        let image = site.image();
        fs::write(image.configuration_path(), "<html>error</html>").unwrap();
        assert!(site.refusal().contains("is not the image's configuration"), "{}", site.refusal());
        // Without one, the variables of Apptainer's script are known, and a link of the image is not followed to this host.
        fs::remove_file(image.configuration_path()).unwrap();
        let elsewhere = site.directory.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("10-docker2singularity.sh"), "export A=\"b\"\n").unwrap();
        let script = image.directory().join(".singularity.d/env");
        fs::create_dir(script.parent().unwrap()).unwrap();
        symlink(&elsewhere, &script).unwrap();
        assert_eq!(configuration(&image).unwrap()["config"], json!({ "Env": [] }));
        fs::remove_file(&script).unwrap();
        fs::rename(&elsewhere, &script).unwrap();
        assert_eq!(configuration(&image).unwrap()["config"], json!({ "Env": ["A=b"] }));

        fs::remove_dir(image.directory().join("usr")).unwrap();
        assert!(site.refusal().contains("garbage collection"), "only DUCC's files are left: {}", site.refusal());
        fs::remove_dir_all(image.directory()).unwrap();
        assert!(site.refusal().contains("garbage collection"), "{}", site.refusal());
        assert_eq!(parallax_store::read::list(site.store.root()).unwrap().unpacked.len(), 0);
    }
}
