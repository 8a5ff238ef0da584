//! DUCC's store for Podman: what Podman cannot use of it, or takes for something else.
//!
//! DUCC names a layer by its diffID alone and keeps the first chain below it that it has written. So a layer that two images have on different
//! layers is right in one of them, and of a second image on the same base the chain is written without the directory's name.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use parallax_format::digest::LayerId;
use parallax_format::podman::ListedLayer;
use parallax_format::{ducc, layout};
use parallax_store::Problem;

use super::problem;

/// Remedy for all of it: Parallax does not use this store.
const REMEDY: &str = "let Podman use a store that parallax migrate has filled";

/// Checks the lists of the store, if there is one.
pub(super) fn check(root: &Path, problems: &mut Vec<Problem>) {
    let path = root.join(ducc::podman_layers());
    let Ok(text) = fs::read_to_string(&path) else { return };
    let layers: Vec<ListedLayer> = match serde_json::from_str(&text) {
        Ok(layers) => layers,
        Err(error) => {
            problems.push(problem(None, &path, format!("cannot be used: {error}"), REMEDY));
            return;
        }
    };
    let mut parents: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for layer in layers.iter().filter(|layer| LayerId::parse(&layer.id).is_some()) {
        parents.entry(&layer.id).or_default().push(&layer.parent);
    }
    for (id, parents) in parents {
        let short = LayerId::parse(id).map_or_else(String::new, |id| id.short().to_owned());
        if parents.windows(2).any(|pair| pair.first() != pair.last()) {
            let what = format!("has the layer {short} on two others, and Podman knows one of them");
            problems.push(problem(None, &path, what, REMEDY));
        } else if parents.len() > 1 {
            problems.push(problem(None, &path, format!("has the layer {short} {} times", parents.len()), REMEDY));
        }
        let lower = root.join(ducc::podman_lower(id));
        let below = fs::read_to_string(&lower).unwrap_or_default();
        let is_bad = |link: &str| link == layout::link_of_lower(link);
        if let Some(link) = below.split(':').find(|link| !link.is_empty() && is_bad(link)) {
            problems.push(problem(None, lower, format!("names \"{link}\", which Podman does not find"), REMEDY));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_that_podman_cannot_follow_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let found = || {
            let mut problems = Vec::new();
            check(root, &mut problems);
            problems.into_iter().map(|problem| problem.what).collect::<Vec<_>>()
        };
        assert_eq!(found(), [""; 0]);
        let [base, other, top] = ["ab", "cd", "ef"].map(|part| part.repeat(32));
        let list = root.join(ducc::podman_layers());
        fs::create_dir_all(list.parent().unwrap()).unwrap();
        let layer = |id: &str, parent: &str| format!(r#"{{"id":"{id}","parent":"{parent}"}}"#);
        fs::write(&list, format!("[{},{}]", layer(&base, ""), layer(&top, &base))).unwrap();
        let lower = root.join(ducc::podman_lower(&top));
        fs::create_dir_all(lower.parent().unwrap()).unwrap();
        fs::write(&lower, "l/ABC").unwrap();
        assert_eq!(found(), [""; 0]);

        // The second image on the same base.
        fs::write(&lower, "l/ABC:DEF").unwrap();
        assert_eq!(found(), ["names \"DEF\", which Podman does not find"]);
        fs::write(&lower, "l/ABC").unwrap();
        fs::write(&list, format!("[{},{}]", layer(&base, ""), layer(&base, ""))).unwrap();
        assert_eq!(found(), [format!("has the layer {} 2 times", &base[..12])]);
        // One diffID on two parents.
        fs::write(&list, format!("[{},{}]", layer(&top, &base), layer(&top, &other))).unwrap();
        assert_eq!(found(), [format!("has the layer {} on two others, and Podman knows one of them", &top[..12])]);
        fs::write(&list, "[").unwrap();
        assert_eq!(found().len(), 1);
    }
}
