//! `parallax list --trees`: the images of repositories of unpacked images.

use std::path::Path;

use anyhow::Context as _;
use parallax_config::Config;
use parallax_file_system::FileSystem;
use parallax_format::digest::ImageId;
use parallax_trees::{Repository, TreeError};
use serde::Serialize;

use crate::global::Global;
use crate::output::{print, print_json};
use crate::units;

/// One image in the JSON form. Future versions only add fields.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Row {
    /// The public name.
    name: String,
    /// The image id.
    id: ImageId,
    /// Number of layers; null if the repository has no manifest of the image.
    layers: Option<usize>,
    /// The repository's root.
    tree: String,
    /// Its file system.
    file_system: String,
    /// `false` if the image's directory is not there, so that it cannot be run from here.
    unpacked: bool,
}

/// Lists the images of all repositories of the configuration.
///
/// # Errors
/// If the configuration is invalid or a repository cannot be read.
pub(super) fn run(global: &Global, json: bool) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for root in Config::load(&global.config)?.trees.paths {
        let of_root = FileSystem::of(&root).map_err(Into::into).and_then(|found| rows_of(&root, &found.to_string()));
        rows.extend(of_root.with_context(|| format!("cannot list the images of {}", root.display()))?);
    }
    if json {
        return print_json(&rows);
    }
    print(&table(&rows))
}

/// Returns the images of a repository, by their names.
fn rows_of(root: &Path, file_system: &str) -> anyhow::Result<Vec<Row>> {
    let repository = Repository::new(root);
    let mut rows = Vec::new();
    for name in repository.names()? {
        match row(root, repository, &name, file_system) {
            Ok(Some(row)) => rows.push(row),
            Ok(None) => {}
            Err(error) => tracing::warn!("{name} cannot be used: {error}"),
        }
    }
    if let Some(missing) = rows.iter().find(|row| !row.unpacked) {
        tracing::warn!(
            "{} has no directory, so its name alone does not run; parallax verify --trees says why",
            missing.name
        );
    }
    Ok(rows)
}

fn row(root: &Path, repository: Repository<'_>, name: &str, file_system: &str) -> Result<Option<Row>, TreeError> {
    let Some(image) = repository.image_at(name)? else { return Ok(None) };
    Ok(Some(Row {
        name: name.to_owned(),
        id: image.id,
        layers: image.manifest()?.map(|manifest| manifest.layers.len()),
        tree: root.display().to_string(),
        file_system: file_system.to_owned(),
        unpacked: image.directory().is_dir(),
    }))
}

fn table(rows: &[Row]) -> String {
    let header = ["NAME", "ID", "LAYERS", "FILE SYSTEM", "TREE"].map(str::to_owned);
    let cells = |row: &Row| {
        let layers = row.layers.map_or_else(|| "-".to_owned(), |layers| layers.to_string());
        [row.name.clone(), row.id.short().to_owned(), layers, row.file_system.clone(), row.tree.clone()]
    };
    let lines: Vec<[String; 5]> = [header].into_iter().chain(rows.iter().map(cells)).collect();
    units::columns(&lines)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use parallax_format::ducc;

    use super::*;

    #[test]
    fn images_are_listed_by_their_public_names() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let id = "ab".repeat(32);
        for (name, text) in [
            (
                "quay.io/a/b:1",
                format!(r#"{{"config":{{"digest":"sha256:{id}","size":1}},"layers":[{{"digest":"x","size":1}}]}}"#),
            ),
            ("quay.io/bad:1", "{}".to_owned()),
        ] {
            let file = root.join(ducc::manifest(Path::new(name)));
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        // DUCC writes no manifest of an image that it makes for Apptainer alone.
        let other: ImageId = "cd".repeat(32).parse().unwrap();
        fs::create_dir_all(root.join(ducc::flat(&other))).unwrap();
        fs::create_dir_all(root.join("quay.io/c")).unwrap();
        symlink(Path::new("../..").join(ducc::flat(&other)), root.join("quay.io/c/d:1")).unwrap();
        let rows = rows_of(root, "CVMFS").unwrap();
        let tree = root.display().to_string();
        let row = |name: &str, id: ImageId, layers, unpacked| Row {
            name: name.into(),
            id,
            layers,
            tree: tree.clone(),
            file_system: "CVMFS".into(),
            unpacked,
        };
        let expected =
            [row("quay.io/a/b:1", id.parse().unwrap(), Some(1), false), row("quay.io/c/d:1", other, None, true)];
        assert_eq!(rows, expected);
        assert_eq!(
            table(&rows),
            format!(
                "NAME           ID            LAYERS  FILE SYSTEM  TREE\n\
                 quay.io/a/b:1  abababababab  1       CVMFS        {tree}\n\
                 quay.io/c/d:1  cdcdcdcdcdcd  -       CVMFS        {tree}\n"
            )
        );
    }
}
