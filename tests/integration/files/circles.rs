//! No file of a crate imports a file that imports it, directly or by way of others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::repository;

use super::facts::{COMPONENTS, is_test, product, sources};

tests! { machine:
    no_file_imports_what_imports_it,
}

/// The path of a module in its crate; empty for `lib.rs`.
type Module = Vec<String>;

/// The imports of a crate's files.
#[derive(Debug, Default)]
struct Imports {
    /// The paths that each file names.
    paths: BTreeMap<Module, Vec<Module>>,
    /// What a name is that a module exports again: importing that name imports its origin, not the module.
    exports: BTreeMap<Module, Module>,
}

fn no_file_imports_what_imports_it() -> anyhow::Result<()> {
    // A circle of three is found, also by way of a name that is exported again; a chain and a facade are none.
    let (a, b) = (("a.rs", "use crate::b::{B, c::C};"), ("b.rs", "mod c;\npub use c::C;\npub struct B;"));
    let circle = [a, b, ("b/c.rs", "use super::super::d::D;"), ("d.rs", "fn d() { crate::a::f() }")];
    let found = Imports::of(circle).circle().context("a circle is not found")?;
    ensure!(found.len() == 4 && found.first() == found.last(), "{found:?}");
    let chain =
        [a, b, ("b/c.rs", "use std::fs;\n#[cfg(test)]\nmod tests { use crate::a::A; }"), ("d.rs", "use crate::b::C;")];
    ensure!(Imports::of(chain).circle().is_none(), "a chain is taken for a circle");

    let root = repository();
    let mut files = Vec::new();
    for component in COMPONENTS {
        sources(&root.join(component), &mut files)?;
    }
    let crates: BTreeSet<&Path> =
        files.iter().filter_map(|file| file.ancestors().find(|directory| directory.ends_with("src"))).collect();
    ensure!(crates.len() >= 13, "only {} crates are searched", crates.len());
    let mut circles = Vec::new();
    for source in crates {
        let own = files.iter().filter(|file| file.starts_with(source) && !is_test(file));
        let texts = own.map(|file| {
            anyhow::Ok((file.strip_prefix(source)?.to_str().context("odd name")?, fs::read_to_string(file)?))
        });
        let texts = texts.collect::<anyhow::Result<Vec<_>>>()?;
        let imports = Imports::of(texts.iter().map(|(name, text)| (*name, text.as_str())));
        let shown = source.strip_prefix(&root).unwrap_or(source).display();
        circles.extend(imports.circle().map(|circle| format!("{shown}: {}", circle.join(" -> "))));
    }
    ensure!(circles.is_empty(), "files that import each other:\n{}", circles.join("\n"));
    Ok(())
}

impl Imports {
    /// Reads the imports of a crate's files, given by their paths in `src` and their texts.
    fn of<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let files: Vec<(Module, &str)> = files.into_iter().map(|(name, text)| (module(name), text)).collect();
        let modules: BTreeSet<Module> = files.iter().map(|(module, _)| module.clone()).collect();
        let mut imports = Self::default();
        for (module, text) in &files {
            let paths = imports.paths.entry(module.clone()).or_default();
            for (is_export, path) in named(text) {
                let Some(path) = absolute(&path, module, &modules) else { continue };
                match path.last().filter(|_| is_export) {
                    Some(name) => {
                        let exported = [module.as_slice(), std::slice::from_ref(name)].concat();
                        imports.exports.insert(exported, path);
                    }
                    None => paths.push(path),
                }
            }
        }
        imports
    }

    /// Returns the file that a path leads to.
    fn file(&self, path: &[String]) -> Option<&Module> {
        let mut path = path.to_vec();
        // A name may be exported again and again.
        for _ in 0..8 {
            let exported = (0..=path.len()).rev().find_map(|end| Some((self.exports.get(&path[..end])?, end)));
            let Some((origin, end)) = exported else { break };
            path = [origin, &path[end..]].concat();
        }
        (0..=path.len()).rev().find_map(|end| self.paths.get_key_value(&path[..end])).map(|(module, _)| module)
    }

    /// Returns the files of a circle, the first one again at its end.
    fn circle(&self) -> Option<Vec<String>> {
        self.paths.keys().find_map(|start| self.way_back(start))
    }

    /// Returns the shortest way from a file by its imports to itself.
    fn way_back(&self, start: &Module) -> Option<Vec<String>> {
        let mut before: BTreeMap<&Module, &Module> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(module) = queue.pop_front() {
            for next in self.paths[module].iter().filter_map(|path| self.file(path)).filter(|next| *next != module) {
                if before.contains_key(next) {
                    continue;
                }
                before.insert(next, module);
                queue.push_back(next);
                if next == start {
                    let mut way = vec![start];
                    way.extend(
                        std::iter::successors(Some(module), |at| before.get(at).copied()).take_while(|at| *at != start),
                    );
                    way.push(start);
                    return Some(way.into_iter().rev().map(|module| shown(module)).collect());
                }
            }
        }
        None
    }
}

fn shown(module: &[String]) -> String {
    if module.is_empty() { "lib".to_owned() } else { module.join("::") }
}

/// The module in a file.
fn module(file: &str) -> Module {
    let path = file.trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').filter(|part| *part != "lib").map(str::to_owned).collect()
}

/// The paths that a text names, and whether they are exported.
fn named(text: &str) -> Vec<(bool, Vec<String>)> {
    let code: Vec<&str> = product(text).lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let mut paths = Vec::new();
    for statement in code.join("\n").split(';') {
        // What is before belongs to an item without a semicolon.
        let line = statement.lines().position(|line| import(line).is_some());
        let (other, import) = match line {
            Some(line) => {
                let lines: Vec<&str> = statement.lines().collect();
                (lines[..line].join("\n"), lines[line..].join(" "))
            }
            None => (statement.to_owned(), String::new()),
        };
        let in_code = other.match_indices("crate::").map(|(at, _)| {
            let end = |byte: char| !byte.is_ascii_alphanumeric() && byte != '_' && byte != ':';
            other[at..].split(end).next().unwrap_or_default()
        });
        paths.extend(in_code.map(|path| (false, path.split("::").map(str::to_owned).collect())));
        if let Some((is_export, tree)) = self::import(&import) {
            paths.extend(leaves(tree).into_iter().map(|path| (is_export, path)));
        }
    }
    paths
}

/// The tree that an import names, and whether it exports it.
fn import(line: &str) -> Option<(bool, &str)> {
    let line = line.trim_start();
    let after = line.strip_prefix("pub").map(|rest| rest.split_once(' ').map_or(rest, |(_, rest)| rest));
    Some((after.is_some(), after.unwrap_or(line).strip_prefix("use ")?))
}

/// The paths of an import's tree.
fn leaves(tree: &str) -> Vec<Vec<String>> {
    let Some((before, inside)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        let parts = path.split("::").map(str::trim).filter(|part| !part.is_empty() && *part != "self");
        // At its beginning "self" is the module.
        let own = path.trim_start().starts_with("self::").then_some("self");
        return vec![own.into_iter().chain(parts).map(str::to_owned).collect()];
    };
    let inside = inside.rsplit_once('}').map_or(inside, |(inside, _)| inside);
    let (mut depth, mut start) = (0_usize, 0);
    let mut branches = Vec::new();
    for (at, letter) in inside.char_indices().chain([(inside.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                branches.push(inside[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    branches
        .iter()
        .filter(|branch| !branch.is_empty())
        .flat_map(|branch| leaves(&format!("{before}{branch}")))
        .collect()
}

/// A path of a module's file from the crate's root; `None` if it leads to another crate.
fn absolute(path: &[String], module: &Module, modules: &BTreeSet<Module>) -> Option<Module> {
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "crate" => Some(rest.to_vec()),
        "self" => Some([module.as_slice(), rest].concat()),
        "super" => {
            let above = path.iter().take_while(|part| *part == "super").count();
            let parent = &module[..module.len().checked_sub(above)?];
            Some([parent, &path[above..]].concat())
        }
        _ => {
            let own = [module.as_slice(), std::slice::from_ref(first)].concat();
            modules.contains(&own).then(|| [own.as_slice(), rest].concat())
        }
    }
}
