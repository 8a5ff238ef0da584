//! Facts that several components need are said once, in crates/format.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use integration_tests::cluster::repository;

tests! { machine:
    store_paths_digests_and_registries_are_in_one_crate,
}

/// What is built and installed. What tests write and expect is written out there.
pub(super) const COMPONENTS: [&str; 8] =
    ["agent", "crates", "launcher", "lazy", "migrate-cli", "mount-program", "spank-plugin", "spank-step"];
/// The crate that says these facts.
const FORMAT: &str = "crates/format";

/// Code that says such a fact itself, and where in [`FORMAT`] it is said.
const FACTS: [(&str, &[&str]); 6] = [
    (
        "layout",
        &[
            "\"overlay/",
            "\"overlay-images",
            "\"overlay-layers",
            "\"parallax/",
            "\"squash\"",
            "\"squash/",
            ".squash\"",
            "tar-split.gz\"",
            "join(\"overlay\")",
        ],
    ),
    (
        "digest",
        &[
            "\"sha256:\"",
            "\"sha256:{",
            "-sha256:{",
            "@sha256:{",
            "@sha256:\"",
            "get(..12)",
            "len() == 64",
            ":02x}\")).collect",
            "{:x}\", hash",
        ],
    ),
    ("name", &["\"localhost", "\"docker.io", "['.', ':']", "[':', '.']", "[':', '@']", "['@', ':']"]),
    (
        "oci",
        &[
            "\"application/vnd.oci",
            "\"org.opencontainers.",
            "rename = \"Env\"",
            "rename = \"WorkingDir\"",
            "\"WorkingDir\"",
            "\"Entrypoint\"",
            "diff_ids: Vec<String>",
        ],
    ),
    ("podman", &["rename = \"big-data", "rename = \"mapped-layers\"", "rename = \"diff-"]),
    ("squashfs", &["b\"hsqs\""]),
];

fn store_paths_digests_and_registries_are_in_one_crate() -> anyhow::Result<()> {
    for (module, patterns) in FACTS {
        for pattern in patterns {
            // What is searched for is found in code, and only there.
            let code =
                format!("//! {pattern}\nfn f() {{\n    g({pattern});\n}}\n\n#[cfg(test)]\nmod tests {{ {pattern} }}\n");
            ensure!(said(&code).iter().any(|(line, found)| *line == 3 && *found == module), "{pattern} is not found");
            ensure!(said(&code).iter().all(|(line, _)| *line == 3), "{pattern} is found in comments or tests");
        }
    }
    let root = repository();
    let mut files = Vec::new();
    for component in COMPONENTS {
        sources(&root.join(component), &mut files)?;
    }
    files.retain(|file| !file.starts_with(root.join(FORMAT)) && !is_test(file));
    ensure!(files.len() > 100, "only {} files are searched", files.len());
    let mut twice = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let shown = file.strip_prefix(&root).unwrap_or(file).display();
        twice.extend(said(&text).iter().map(|(line, module)| format!("{shown}:{line}: use {FORMAT}, {module}.rs")));
    }
    ensure!(twice.is_empty(), "facts that crates/format says are said again:\n{}", twice.join("\n"));
    Ok(())
}

/// A source without its tests.
pub(super) fn product(text: &str) -> &str {
    text.split_once("#[cfg(test)]\nmod tests {").map_or(text, |(product, _)| product)
}

/// The lines, from 1, of a source that say a fact themselves, and the module that has it.
fn said(text: &str) -> Vec<(usize, &'static str)> {
    let code = product(text).lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    code.flat_map(|(index, line)| {
        let found = move |patterns: &[&str]| patterns.iter().any(|pattern| line.contains(pattern));
        FACTS.iter().filter(move |(_, patterns)| found(patterns)).map(move |(module, _)| (index + 1, *module))
    })
    .collect()
}

/// Whether a file holds tests, or what only they use.
pub(super) fn is_test(file: &Path) -> bool {
    let name = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    name.ends_with("tests") || name == "testing"
}

pub(super) fn sources(directory: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
