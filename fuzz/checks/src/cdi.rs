//! Specifications of devices (CDI), JSON and YAML.

use std::path::Path;

use parallax_cdi::{Devices, Format, Specification};

/// Maximum length of an input. The library for YAML repeats what an alias means, and files are the administrator's.
const MAX_LENGTH: usize = 8192;

/// Any text is refused with a sentence, or has devices with valid names, each of which can be asked for, and changes that lead to
/// absolute paths.
///
/// # Panics
/// If it has not.
pub fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    for format in [Format::Json, Format::Yaml] {
        let has_aliases = text.contains('*') && text.contains('&');
        if format == Format::Yaml && (has_aliases || text.len() > MAX_LENGTH) {
            continue;
        }
        match Specification::parse(&text, format) {
            Ok(specification) => of(specification),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

fn of(specification: Specification) {
    let edits = specification.devices.iter().map(|(_, edits)| edits).chain([&specification.common]);
    for edits in edits {
        for node in &edits.nodes {
            assert!(node.source.is_absolute() && node.target.is_absolute(), "{node:?}");
        }
        for mount in &edits.mounts {
            assert!(mount.target.is_absolute() && mount.target != Path::new("/"), "{mount:?}");
            assert!(mount.source.as_deref().is_none_or(Path::is_absolute), "{mount:?}");
        }
        for (_, hook) in &edits.hooks {
            assert_eq!(hook.check(), Ok(()));
        }
        assert!(edits.environment.iter().all(|entry| entry.split_once('=').is_some_and(|(name, _)| !name.is_empty())));
    }
    let count = specification.devices.len();
    let mut devices = Devices::default();
    devices.add(0, "/etc/cdi/a.yaml".into(), specification);
    let names: Vec<_> = devices.names().cloned().collect();
    assert_eq!((names.len(), devices.conflicts().count()), (count, 0));
    let all = devices.edits(&names).expect("devices of the specification");
    // What all devices have in common comes once.
    assert_eq!(all.len(), if count == 0 { 0 } else { count + 1 });
    for name in &names {
        // As options name it.
        assert!(name.to_string().parse::<parallax_format::device::WantedDevice>().is_ok(), "{name}");
    }
}
