//! All devices of a node, by their names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parallax_format::device::CdiName;
use parallax_format::nearest_word;
use parallax_oci_hooks::StagedHook;

use crate::edits::Edits;
use crate::specification::Specification;

/// Maximum number of names in a sentence.
const MAX_NAMES: usize = 8;

/// The devices of a node.
#[derive(Debug, Default)]
pub struct Devices {
    /// The files, with the number of the directory that each is in.
    files: Vec<(usize, PathBuf, Specification)>,
    /// Places of each device: a number of [`Devices::files`], and its number there. Those of the highest directory alone.
    places: BTreeMap<CdiName, Vec<(usize, usize)>>,
}

/// Why a name means no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// No specification has it. `known` says which names there are.
    #[error("there is no device \"{name}\"{known}")]
    Missing {
        /// The name.
        name: CdiName,
        /// The end of the sentence.
        known: String,
    },
    /// Several specifications have it.
    #[error("the device \"{name}\" is in {}", list(paths))]
    Conflict {
        /// The name.
        name: CdiName,
        /// The specifications.
        paths: Vec<PathBuf>,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and in ")
}

impl Devices {
    /// Adds a specification. Devices of a directory with a higher number take the place of those of the same name in others.
    pub fn add(&mut self, directory: usize, path: PathBuf, specification: Specification) {
        let file = self.files.len();
        for (number, (device, _)) in specification.devices.iter().enumerate() {
            let name = CdiName { kind: specification.kind.clone(), device: device.clone() };
            let places = self.places.entry(name).or_default();
            let highest =
                places.first().and_then(|(other, _)| self.files.get(*other)).map(|(directory, ..)| *directory);
            match highest {
                Some(highest) if highest > directory => continue,
                Some(highest) if highest < directory => places.clear(),
                _ => {}
            }
            places.push((file, number));
        }
        self.files.push((directory, path, specification));
    }

    /// The names of all devices that are in one specification only.
    pub fn names(&self) -> impl Iterator<Item = &CdiName> {
        self.places.iter().filter(|(_, places)| places.len() == 1).map(|(name, _)| name)
    }

    /// The hooks of all devices.
    pub fn hooks(&self) -> impl Iterator<Item = StagedHook> {
        self.files.iter().flat_map(|(_, path, specification)| {
            let edits = specification.devices.iter().map(|(_, edits)| edits).chain([&specification.common]);
            edits.flat_map(|edits| &edits.hooks).map(|(stage, hook)| StagedHook {
                stage: *stage,
                hook: hook.clone(),
                origin: path.clone(),
            })
        })
    }

    /// The names that mean no device because several specifications have them.
    pub fn conflicts(&self) -> impl Iterator<Item = Unknown> {
        self.places.iter().filter(|(_, places)| places.len() > 1).map(|(name, places)| self.conflict(name, places))
    }

    fn conflict(&self, name: &CdiName, places: &[(usize, usize)]) -> Unknown {
        let path = |(file, _): &(usize, usize)| self.files.get(*file).map(|(_, path, _)| path.clone());
        Unknown::Conflict { name: name.clone(), paths: places.iter().filter_map(path).collect() }
    }

    /// Returns what devices change, in the order of their names in `wanted`, with the file that says so; a device that is there twice
    /// counts once. What all devices of a file have in common comes before its first device.
    ///
    /// # Errors
    /// A name means no device.
    pub fn edits<'a>(&'a self, wanted: &[CdiName]) -> Result<Vec<(&'a Path, &'a Edits)>, Unknown> {
        let mut files = Vec::new();
        let mut seen = Vec::new();
        let mut all: Vec<(&Path, &Edits)> = Vec::new();
        for name in wanted {
            let (file, number) = match self.places.get(name).map(Vec::as_slice) {
                Some([place]) => *place,
                Some(places) => return Err(self.conflict(name, places)),
                None => return Err(Unknown::Missing { name: name.clone(), known: self.known(name) }),
            };
            let Some((_, path, specification)) = self.files.get(file) else { continue };
            if seen.contains(&(file, number)) {
                continue;
            }
            seen.push((file, number));
            if !files.contains(&file) {
                files.push(file);
                all.push((path, &specification.common));
            }
            all.extend(specification.devices.get(number).map(|(_, edits)| (path.as_path(), edits)));
        }
        Ok(all)
    }

    /// The end of a sentence about a missing device: the nearest name, or those of its kind, or all.
    fn known(&self, name: &CdiName) -> String {
        let all: Vec<String> = self.places.keys().map(ToString::to_string).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        if let Some(near) = nearest_word(&name.to_string(), &all) {
            return format!("; did you mean \"{near}\"?");
        }
        let prefix = format!("{}=", name.kind);
        let mut shown: Vec<&str> = all.iter().copied().filter(|own| own.starts_with(&prefix)).collect();
        if shown.is_empty() {
            shown = all;
        }
        match shown.len() {
            0 => String::new(),
            count if count > MAX_NAMES => format!("; there are {}, ...", shown.split_at(MAX_NAMES).0.join(", ")),
            _ => format!("; there are {}", shown.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use parallax_format::device::{DeviceName, WantedDevice};

    use super::*;
    use crate::specification::Format;

    fn specification(kind: &str, devices: &[&str]) -> Specification {
        let device = |name: &&str| format!("{{name: {name}, containerEdits: {{env: ['{name}=1']}}}}");
        let devices = devices.iter().map(device).collect::<Vec<_>>().join(", ");
        let text = format!("cdiVersion: 0.6.0\nkind: {kind}\ndevices: [{devices}]\ncontainerEdits: {{env: [ALL=1]}}");
        Specification::parse(&text, Format::Yaml).unwrap()
    }

    fn name(text: &str) -> CdiName {
        let DeviceName::Cdi(name) = text.parse::<WantedDevice>().unwrap().name else { panic!("{text}") };
        name
    }

    fn devices() -> Devices {
        let mut devices = Devices::default();
        devices.add(0, "/etc/cdi/a.yaml".into(), specification("a.com/gpu", &["one", "two"]));
        devices.add(0, "/etc/cdi/b.yaml".into(), specification("b.com/nic", &["one", "both"]));
        devices.add(0, "/etc/cdi/c.yaml".into(), specification("b.com/nic", &["both"]));
        devices.add(1, "/run/cdi/a.yaml".into(), specification("a.com/gpu", &["two"]));
        devices
    }

    fn edits(wanted: &[&str]) -> Vec<String> {
        let wanted: Vec<CdiName> = wanted.iter().map(|text| name(text)).collect();
        let devices = devices();
        let edits = devices.edits(&wanted).unwrap();
        edits.iter().map(|(path, edits)| format!("{}: {}", path.display(), edits.environment.join(" "))).collect()
    }

    #[test]
    fn what_devices_have_in_common_comes_once() {
        assert_eq!(edits(&["a.com/gpu=one", "a.com/gpu=one"]), ["/etc/cdi/a.yaml: ALL=1", "/etc/cdi/a.yaml: one=1"]);
        let both = edits(&["b.com/nic=one", "a.com/gpu=two"]);
        assert_eq!(both[1..], ["/etc/cdi/b.yaml: one=1", "/run/cdi/a.yaml: ALL=1", "/run/cdi/a.yaml: two=1"]);
    }

    #[test]
    fn unknown_names_and_conflicts_are_told() {
        let said = |wanted: &str| devices().edits(&[name(wanted)]).unwrap_err().to_string();
        assert_eq!(said("a.com/gpu=tow"), "there is no device \"a.com/gpu=tow\"; did you mean \"a.com/gpu=two\"?");
        let other = said("b.com/nic=GPU-1234567890");
        assert!(other.ends_with("; there are b.com/nic=both, b.com/nic=one"), "{other}");
        assert!(said("z/zzzzzzzzzzzz=0").contains("there are a.com/gpu=one, "));
        assert_eq!(
            said("b.com/nic=both"),
            "the device \"b.com/nic=both\" is in /etc/cdi/b.yaml and in /etc/cdi/c.yaml"
        );
        let devices = devices();
        assert_eq!((devices.names().count(), devices.conflicts().count()), (3, 1));
    }
}
