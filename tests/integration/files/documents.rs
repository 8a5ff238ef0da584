//! Documents: their links lead somewhere, and what they say to type exists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use integration_tests::cluster::repository;

use super::read;

tests! { machine:
    links_of_documents_resolve,
    every_document_is_linked,
    make_help_lists_every_target,
    documents_name_targets_that_exist,
}

/// The repository's Markdown files, relative to its root.
fn documents() -> anyhow::Result<Vec<PathBuf>> {
    let mut directories = vec![PathBuf::new()];
    let mut found = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in repository().join(&directory).read_dir()? {
            let entry = entry?;
            let path = directory.join(entry.file_name());
            let name = entry.file_name();
            let skipped = name == "target" || name == ".git" || path == Path::new("fuzz/corpus");
            if entry.file_type()?.is_dir() && !skipped {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    ensure!(found.len() > 8, "only {found:?} were found");
    Ok(found)
}

/// A document's text without its blocks of code.
fn prose(text: &str) -> String {
    let blocks = text.split("\n```").enumerate();
    blocks.filter(|(at, _)| at % 2 == 0).map(|(_, block)| block).collect::<Vec<_>>().join("\n")
}

/// The targets of links that lead to a file or a heading of the repository.
fn links(text: &str) -> Vec<String> {
    let ends = prose(text);
    let targets = ends.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned());
    targets.filter(|target| !target.contains("://") && !target.contains(' ')).collect()
}

/// The anchors of headings, as forges make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text);
    let headings =
        headings.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    headings
        .map(|heading| {
            let kept = heading
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .collect::<String>();
            kept.replace(' ', "-")
        })
        .collect()
}

fn links_of_documents_resolve() -> anyhow::Result<()> {
    let mut checked = 0;
    for document in documents()? {
        let text = read(&document.to_string_lossy())?;
        for link in links(&text) {
            let (path, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(path, anchor)| (path, Some(anchor)));
            let directory = document.parent().unwrap_or(Path::new(""));
            let target = if path.is_empty() { document.clone() } else { directory.join(path) };
            ensure!(repository().join(&target).exists(), "{}: {link} leads nowhere", document.display());
            if let Some(anchor) = anchor {
                let known = anchors(&read(&target.to_string_lossy())?);
                ensure!(known.contains(anchor), "{}: {link} names no heading", document.display());
            }
            checked += 1;
        }
    }
    ensure!(checked > 30, "only {checked} links were found");
    Ok(())
}

/// A document that no other one links is found by nobody.
fn every_document_is_linked() -> anyhow::Result<()> {
    let documents = documents()?;
    let mut linked = BTreeSet::new();
    for document in &documents {
        let directory = document.parent().unwrap_or(Path::new(""));
        for link in links(&read(&document.to_string_lossy())?) {
            let path = link.split('#').next().unwrap_or_default();
            linked.extend(repository().join(directory).join(path).canonicalize().ok().filter(|_| !path.is_empty()));
        }
    }
    for document in documents {
        let at_its_place = document == Path::new("README.md") || document.starts_with(".github");
        let known = at_its_place || linked.contains(&repository().join(&document).canonicalize()?);
        ensure!(known, "no document links {}", document.display());
    }
    Ok(())
}

/// The Makefile's targets that are meant to be typed.
fn targets() -> anyhow::Result<BTreeSet<String>> {
    let text = read("Makefile")?;
    let names = text.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name);
    let typed = names.filter(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
    Ok(typed.map(str::to_owned).collect())
}

fn make_help_lists_every_target() -> anyhow::Result<()> {
    let text = read("Makefile")?;
    let listed: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("\t@echo 'make "))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    // Parts of others.
    let typed = |name: &&String| *name != "help" && !name.starts_with("lint-") && !name.starts_with("install-");
    let targets: BTreeSet<String> = targets()?.iter().filter(typed).cloned().collect();
    ensure!(listed == targets, "make help lists {listed:?}, and there are {targets:?}");
    Ok(())
}

fn documents_name_targets_that_exist() -> anyhow::Result<()> {
    let targets = targets()?;
    let mut checked = 0;
    for document in documents()? {
        let text = read(&document.to_string_lossy())?;
        for start in ["`make ", "\n$ make ", "\n# make "] {
            for rest in text.split(start).skip(1) {
                let words = rest.split(['`', '\n']).next().unwrap_or_default().split_whitespace();
                for word in words.take_while(|word| *word != "#").filter(|word| !word.contains(['=', '-', '\'', '"'])) {
                    ensure!(targets.contains(word), "{}: there is no make {word}", document.display());
                    checked += 1;
                }
            }
        }
    }
    ensure!(checked > 8, "only {checked} targets were found");
    Ok(())
}
