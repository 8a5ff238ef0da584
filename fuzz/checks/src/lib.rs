//! What must hold of the parsers for any input, whoever it comes from.
//!
//! Each module is one parser, with a function `check` that takes any bytes and panics where a promise is broken. libFuzzer
//! calls it (`fuzz/fuzz_targets`), and so does the test here, with the inputs of `fuzz/corpus`. `fuzz/README.md` says how to add one.

#![allow(clippy::indexing_slicing, reason = "a panic is how a check fails")]

pub mod assignments;
pub mod cdi;
pub mod config;
pub mod edf;
pub mod hooks;
pub mod image;
pub mod images;
pub mod index;
pub mod journal;
pub mod layer;
pub mod layers;
pub mod name;
pub mod protocol;
pub mod record;
pub mod registries;
pub mod squashfs;
pub mod subuid;
pub mod trace;

/// A check, which panics where a promise is broken.
pub type Check = fn(&[u8]);

/// All checks, by the name that the target and its directory in `fuzz/corpus` have.
pub const CHECKS: &[(&str, Check)] = &[
    ("assignments", assignments::check),
    ("cdi", cdi::check),
    ("config", config::check),
    ("edf", edf::check),
    ("hooks", hooks::check),
    ("image", image::check),
    ("images", images::check),
    ("index", index::check),
    ("journal", journal::check),
    ("layer", layer::check),
    ("layers", layers::check),
    ("name", name::check),
    ("protocol", protocol::check),
    ("record", record::check),
    ("registries", registries::check),
    ("squashfs", squashfs::check),
    ("subuid", subuid::check),
    ("trace", trace::check),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn fuzz() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
    }

    fn names(directory: &Path) -> BTreeSet<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn every_input_of_the_corpus_passes() {
        for (name, check) in CHECKS {
            let directory = fuzz().join("corpus").join(name);
            let inputs: Vec<PathBuf> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert!(inputs.len() >= 5, "{name} has {} inputs", inputs.len());
            for input in inputs {
                // Shown if the check fails.
                println!("{}", input.display());
                check(&fs::read(&input).unwrap());
            }
        }
    }

    #[test]
    fn every_check_has_a_target_and_a_corpus() {
        let checks: BTreeSet<String> = CHECKS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names(&fuzz().join("fuzz_targets")), checks);
        assert_eq!(names(&fuzz().join("corpus")), checks);
        let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
        for (name, _) in CHECKS {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
        }
    }
}
