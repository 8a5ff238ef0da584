//! `parallax inspect` of an image that lies unpacked: its name in a repository of the configuration, or its path.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use parallax_config::Config;
use parallax_file_system::FileSystem;
use parallax_format::digest::{Digest, ImageId};
use parallax_format::oci::Execution;
use parallax_format::{ImageRef, RequestedImage, ducc};
use parallax_store::hash::sha256;
use parallax_trees::{Image, Repository};
use serde::Serialize;

use super::settings::{Settings, text};
use crate::global::Global;
use crate::output::{print, print_json};
use crate::units;

/// The JSON form. Future versions only add fields.
#[derive(Debug, Serialize)]
struct Report {
    /// The image id.
    id: ImageId,
    /// The public name; null for an image that was found by its id or place.
    name: Option<String>,
    /// The repository's root.
    tree: PathBuf,
    /// The file system of the repository.
    file_system: String,
    /// The image's directory.
    directory: PathBuf,
    /// `false` if the image's directory is not there, so that it cannot be run from here.
    unpacked: bool,
    /// The layers, base first; null if the repository has no manifest of the image.
    layers: Option<Vec<Layer>>,
    /// The file with the image's configuration; null if the repository has none.
    configuration: Option<PathBuf>,
    /// Settings for running the image, from the configuration or, the variables alone, from Apptainer's script.
    config: Settings,
}

#[derive(Debug, Serialize)]
struct Layer {
    /// The digest in the manifest, that of the compressed tar.
    digest: String,
    /// The size of the compressed tar in bytes.
    compressed: u64,
    /// The directory with the layer's files; null if the repository has none.
    directory: Option<PathBuf>,
}

/// Shows an unpacked image; `None` if `image` means no unpacked image.
pub(super) fn run(global: &Global, image: &str, json: bool) -> Option<anyhow::Result<()>> {
    let found = find(global, image).transpose()?;
    Some(found.and_then(|image| show(image, json)))
}

/// Shows the image that lies unpacked in this directory, which need not be there, and that `image` means.
///
/// # Errors
/// The directory cannot be that of a repository, or a part of the image cannot be read.
pub(super) fn of_directory(directory: &Path, image: &str, json: bool) -> anyhow::Result<()> {
    let odd = || format!("the image lies in {}, which is not in a repository in DUCC's layout", directory.display());
    let (repository, id) = ducc::flat_image(directory).with_context(odd)?;
    let named = ImageRef::parse(image).map_or(Ok(None), |reference| Repository::new(repository).image(&reference))?;
    let unnamed = || Image { repository: repository.to_owned(), name: None, id };
    show(named.filter(|named| named.id == id).unwrap_or_else(unnamed), json)
}

fn show(image: Image, json: bool) -> anyhow::Result<()> {
    let report = Report::new(image)?;
    if json { print_json(&report) } else { print(&report.text()) }
}

fn find(global: &Global, text: &str) -> anyhow::Result<Option<Image>> {
    let reference = match RequestedImage::parse(text) {
        Ok(RequestedImage::Path(path)) => return Ok(Image::of_path(&path)?),
        Ok(RequestedImage::InStore(reference)) => reference,
        _ => return Ok(None),
    };
    // Without a configuration there are no repositories.
    let trees = Config::load(&global.config).map(|config| config.trees.paths).unwrap_or_default();
    in_trees(&trees, &reference)
}

fn in_trees(trees: &[PathBuf], reference: &ImageRef) -> anyhow::Result<Option<Image>> {
    for root in trees {
        if let Some(found) = Repository::new(root).image(reference)? {
            // An id is a place of every repository.
            if found.name.is_some() || found.directory().is_dir() {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

impl Report {
    fn new(image: Image) -> anyhow::Result<Self> {
        let directory = image.directory();
        let execution = match image.configuration(sha256)? {
            Some(text) => Some(Execution::of_configuration(&text)?),
            None => None,
        };
        let configuration = execution.is_some().then(|| image.configuration_path());
        let settings = execution.unwrap_or_else(|| of_script(&directory));
        let layer = |digest: String, compressed| {
            let place = Digest::parse(&digest).and_then(|digest| image.layer(&digest));
            Layer { digest, compressed, directory: place.map(|place| image.repository.join(place)) }
        };
        let manifest = image.manifest()?;
        let of_manifest =
            manifest.map(|manifest| manifest.layers.into_iter().map(|blob| layer(blob.digest, blob.size)).collect());
        Ok(Self {
            id: image.id,
            file_system: FileSystem::of(&image.repository).map_or_else(|_| String::new(), |found| found.to_string()),
            unpacked: directory.is_dir(),
            directory,
            layers: of_manifest,
            configuration,
            config: settings.into(),
            name: image.name,
            tree: image.repository,
        })
    }

    fn text(&self) -> String {
        let shown = |path: &Path| path.display().to_string();
        let missing = if self.unpacked { "" } else { "\nnot there: parallax verify --trees says why" };
        let mut lines = vec![
            ("Name", self.name.clone().unwrap_or_else(|| "<none>".to_owned())),
            ("Id", self.id.to_string()),
            ("Tree", format!("{} on {}", shown(&self.tree), self.file_system)),
            ("Directory", shown(&self.directory) + missing),
        ];
        let layer = |layer: &Layer| {
            let directory = layer.directory.as_deref().map_or_else(String::new, |path| format!("\n  {}", shown(path)));
            format!("{} {} compressed{directory}", layer.digest, units::bytes(layer.compressed))
        };
        let layers = self.layers.iter().flatten().map(layer).collect::<Vec<_>>();
        lines.push(("Layers", if layers.is_empty() { "no manifest".to_owned() } else { layers.join("\n") }));
        let none = "none in the repository: entry point and working directory are unknown";
        lines.push(("Settings of", self.configuration.as_deref().map_or_else(|| none.to_owned(), shown)));
        lines.extend(self.config.lines());
        text(&lines)
    }
}

/// Reads the variables in Apptainer's script.
fn of_script(directory: &Path) -> Execution {
    let path = directory.join(ducc::APPTAINER_VARIABLES.trim_start_matches('/'));
    let environment = std::fs::read_to_string(path).ok().map(|script| ducc::apptainer_variables(&script));
    Execution { environment, ..Execution::default() }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_unpacked_image_is_shown_with_what_the_repository_lacks() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_owned();
        let configured = r#"{"config":{"Env":["A=b"],"Entrypoint":["sh"]}}"#;
        let (id, layer) = (sha256(configured.as_bytes()).to_string(), "cd".repeat(32));
        let manifest = root.join(ducc::manifest(Path::new("quay.io/a/b:1")));
        fs::create_dir_all(manifest.parent().unwrap()).unwrap();
        let text = format!(
            r#"{{"config":{{"digest":"sha256:{id}","size":1}},"layers":[{{"digest":"sha256:{layer}","size":2000}}]}}"#
        );
        fs::write(manifest, text).unwrap();
        let find = |text: &str| in_trees(std::slice::from_ref(&root), &ImageRef::parse(text).unwrap()).unwrap();
        assert_eq!((find("quay.io/a/b:2"), find(&id)), (None, None));
        let shown = || Report::new(find("quay.io/a/b:1").unwrap()).unwrap().text();
        let bare = shown();
        assert!(bare.contains("not there") && bare.contains("2.00 kB compressed\nSettings"), "{bare}");
        assert!(bare.contains("none in the repository"), "{bare}");

        let (id, layer) = (id.parse().unwrap(), Digest::parse(&format!("sha256:{layer}")).unwrap());
        let configuration = root.join(ducc::configuration(&id));
        for path in [root.join(ducc::flat(&id)), root.join(ducc::layer(&layer)), configuration.parent().unwrap().into()]
        {
            fs::create_dir_all(path).unwrap();
        }
        fs::write(&configuration, configured).unwrap();
        let whole = shown();
        assert!(!whole.contains("not there") && whole.contains("/layerfs\n"), "{whole}");
        assert!(whole.contains("A=b") && whole.contains("[\"sh\"]") && whole.contains("podmanStore"), "{whole}");
        assert!(find(id.as_str()).is_some());
    }
}
