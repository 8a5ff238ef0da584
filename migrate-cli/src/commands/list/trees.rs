//! `parallax list --trees`: the images of repositories of unpacked images.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use parallax_config::Config;
use parallax_file_system::FileSystem;
use parallax_format::digest::{Digest, ImageId};
use parallax_format::ducc;
use parallax_format::oci::Manifest;
use serde::Serialize;

use crate::global::Global;
use crate::output::{print, print_json};
use crate::units;

/// Maximum depth of a public name, whose parts are directories.
const MAX_DEPTH: usize = 16;

/// One image in the JSON form. Future versions only add fields.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Row {
    /// The public name.
    name: String,
    /// The image id.
    id: ImageId,
    /// Number of layers.
    layers: usize,
    /// The repository's root.
    tree: String,
    /// Its file system.
    file_system: String,
}

/// Lists the images of all repositories of the configuration.
///
/// # Errors
/// If the configuration is invalid or a repository cannot be read.
pub(super) fn run(global: &Global, json: bool) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for root in Config::load(&global.config)?.trees.paths {
        let metadata = root.join(ducc::METADATA);
        let start = rows.len();
        FileSystem::of(&root)
            .map_err(Into::into)
            .and_then(|found| walk(&Tree { root: &root, file_system: &found.to_string() }, &metadata, 0, &mut rows))
            .with_context(|| format!("cannot list the images of {}", root.display()))?;
        rows.get_mut(start..).unwrap_or_default().sort();
    }
    if json {
        return print_json(&rows);
    }
    print(&table(&rows))
}

/// A repository.
struct Tree<'a> {
    root: &'a Path,
    file_system: &'a str,
}

/// Adds the images whose manifests are below a directory of a repository's metadata.
fn walk(tree: &Tree<'_>, directory: &Path, depth: usize, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry.with_context(|| directory.display().to_string())?;
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && depth < MAX_DEPTH {
            walk(tree, &path, depth + 1, rows)?;
        } else if entry.file_name() == ducc::MANIFEST {
            match row(tree, directory, &path) {
                Ok(row) => rows.push(row),
                Err(error) => tracing::warn!("{} cannot be used: {error:#}", path.display()),
            }
        }
    }
    Ok(())
}

fn row(tree: &Tree<'_>, directory: &Path, file: &Path) -> anyhow::Result<Row> {
    let manifest: Manifest = serde_json::from_slice(&fs::read(file)?)?;
    let digest = Digest::parse(&manifest.config.digest).context("the digest of its configuration is invalid")?;
    let name = directory.strip_prefix(tree.root.join(ducc::METADATA))?;
    Ok(Row {
        name: name.display().to_string(),
        id: ImageId::from(*digest.sha256()),
        layers: manifest.layers.len(),
        tree: tree.root.display().to_string(),
        file_system: tree.file_system.to_owned(),
    })
}

fn table(rows: &[Row]) -> String {
    let header = ["NAME", "ID", "LAYERS", "FILE SYSTEM", "TREE"].map(str::to_owned);
    let cells = |row: &Row| {
        let (id, layers) = (row.id.short().to_owned(), row.layers.to_string());
        [row.name.clone(), id, layers, row.file_system.clone(), row.tree.clone()]
    };
    let lines: Vec<[String; 5]> = [header].into_iter().chain(rows.iter().map(cells)).collect();
    units::columns(&lines)
}

#[cfg(test)]
mod tests {
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
        let mut rows = Vec::new();
        walk(&Tree { root, file_system: "CVMFS" }, &root.join(ducc::METADATA), 0, &mut rows).unwrap();
        let tree = root.display().to_string();
        assert_eq!(
            rows,
            [Row {
                name: "quay.io/a/b:1".into(),
                id: id.parse().unwrap(),
                layers: 1,
                tree: tree.clone(),
                file_system: "CVMFS".into()
            }]
        );
        assert_eq!(
            table(&rows),
            format!(
                "NAME           ID            LAYERS  FILE SYSTEM  TREE\nquay.io/a/b:1  abababababab  1       CVMFS        {tree}\n"
            )
        );
    }
}
