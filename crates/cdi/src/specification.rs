//! One specification.

use parallax_format::device::{is_device, is_kind};
use serde::Deserialize;

use crate::edits::{Edits, Written as WrittenEdits};
use crate::error::SpecificationError;
use crate::yaml;

/// The versions of the interface that are supported. Each has the fields of the ones before.
const VERSIONS: [&str; 8] = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

/// The language of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// A specification: devices of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Specification {
    /// The kind, `vendor/class`.
    pub kind: String,
    /// The devices: their names, and what each changes.
    pub devices: Vec<(String, Edits)>,
    /// What every container changes that has at least one of the devices.
    pub common: Edits,
}

/// The file as written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    kind: String,
    devices: Vec<WrittenDevice>,
    #[serde(default)]
    container_edits: WrittenEdits,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenDevice {
    name: String,
    #[serde(default)]
    container_edits: WrittenEdits,
}

impl Specification {
    /// Parses a specification.
    ///
    /// # Errors
    /// [`SpecificationError`].
    pub fn parse(text: &str, format: Format) -> Result<Self, SpecificationError> {
        let syntax = |error: serde_json::Error| SpecificationError::Syntax(error.to_string());
        let value: serde_json::Value = match format {
            Format::Json => serde_json::from_str(text).map_err(syntax)?,
            Format::Yaml => yaml::to_json(text).map_err(SpecificationError::Syntax)?,
        };
        // The version comes first: another one may have other fields.
        let version = value.get("cdiVersion").and_then(serde_json::Value::as_str).unwrap_or_default();
        if !VERSIONS.contains(&version.trim_start_matches('v')) {
            return Err(SpecificationError::Version(version.to_owned()));
        }
        Written::deserialize(value).map_err(syntax)?.try_into()
    }
}

impl TryFrom<Written> for Specification {
    type Error = SpecificationError;

    fn try_from(written: Written) -> Result<Self, SpecificationError> {
        if !is_kind(&written.kind) {
            return Err(SpecificationError::Kind(written.kind));
        }
        let mut devices: Vec<(String, Edits)> = Vec::new();
        for device in written.devices {
            if !is_device(&device.name) {
                return Err(SpecificationError::Name(device.name));
            }
            if devices.iter().any(|(name, _)| *name == device.name) {
                return Err(SpecificationError::Twice(device.name));
            }
            devices.push((device.name, device.container_edits.try_into()?));
        }
        Ok(Self { kind: written.kind, devices, common: written.container_edits.try_into()? })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use parallax_oci_hooks::Stage;

    use super::*;

    /// As nvidia-ctk writes it.
    const YAML: &str = r#"---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
    - name: "0"
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
            - path: /dev/dri/card1
              hostPath: /dev/dri/card0
              permissions: rw
        hooks:
            - hookName: createContainer
              path: /usr/bin/nvidia-cdi-hook
              args:
                - nvidia-cdi-hook
                - create-symlinks
                - --link
                - ../card1::/dev/dri/by-path/pci-0000:07:00.0-card
    - name: all
      containerEdits: {deviceNodes: [{path: /dev/nvidia0}]}
containerEdits:
    env:
        - NVIDIA_VISIBLE_DEVICES=void
    mounts:
        - hostPath: /usr/lib/libcuda.so.550.54
          containerPath: /usr/lib/libcuda.so.550.54
          options: [ro, nosuid, nodev, rbind, rprivate]
    additionalGids: [44]
"#;

    #[test]
    fn a_file_of_a_vendors_tool_is_read() {
        let spec = Specification::parse(YAML, Format::Yaml).unwrap();
        let names: Vec<&str> = spec.devices.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((spec.kind.as_str(), names), ("nvidia.com/gpu", vec!["0", "all"]));
        let edits = &spec.devices[0].1;
        assert_eq!(edits.nodes[1].source, Path::new("/dev/dri/card0"));
        assert_eq!(edits.nodes[1].target, Path::new("/dev/dri/card1"));
        let (stage, hook) = &edits.hooks[0];
        assert_eq!((*stage, hook.args.len()), (Stage::CreateContainer, 4));
        assert_eq!(spec.common.environment, ["NVIDIA_VISIBLE_DEVICES=void"]);
        let mount = &spec.common.mounts[0];
        assert!(mount.read_only && mount.private && mount.source.is_some());
        assert_eq!(spec.common.groups, [44]);
    }

    #[test]
    fn json_and_what_a_step_cannot_have() {
        let text = r#"{"cdiVersion":"1.1.0","kind":"a/b","annotations":{"x":"y"},"devices":[{"name":"n","containerEdits":{
            "netDevices":[{"hostInterfaceName":"eth1","name":"eth0"}],"intelRdt":{"closID":"c"},
            "mounts":[{"hostPath":"tmpfs","containerPath":"/scratch","type":"tmpfs"}]}}]}"#;
        let spec = Specification::parse(text, Format::Json).unwrap();
        let edits = &spec.devices[0].1;
        assert_eq!(edits.refused, ["netDevices", "intelRdt"]);
        assert_eq!(edits.mounts[0].source, None);
    }

    #[test]
    fn invalid_files_say_why() {
        let said = |text: &str| Specification::parse(text, Format::Yaml).unwrap_err().to_string();
        let with = |edits: &str| {
            said(&format!("cdiVersion: 0.6.0\nkind: a/b\ndevices: [{{name: x, containerEdits: {{{edits}}}}}]"))
        };
        assert!(said("a: [").contains("line"));
        assert!(said("").contains("cdiVersion \"\""));
        assert!(said("cdiVersion: 9.0.0").contains("cdiVersion \"9.0.0\" is not supported"));
        assert!(said("cdiVersion: 0.6.0\nkind: gpu\ndevices: []").contains("\"gpu\" is not VENDOR/CLASS"));
        assert!(said("cdiVersion: 0.6.0\nkind: a/b\ndevices: [{name: -x}]").contains("\"-x\" is invalid"));
        assert!(said("cdiVersion: 0.6.0\nkind: a/b\ndevices: [{name: x}, {name: x}]").contains("twice"));
        assert!(with("deviceNode: []").contains("unknown field `deviceNode`"));
        assert!(with("deviceNodes: [{path: x}]").contains("\"x\" is not absolute"));
        assert!(with("mounts: [{hostPath: /a, containerPath: /}]").contains("hides the whole image"));
        assert!(with("mounts: [{hostPath: /a/../b, containerPath: /a}]").contains("not absolute"));
        assert!(with("mounts: [{hostPath: a, containerPath: /a, type: ext4}]").contains("\"ext4\""));
        assert!(with("env: [A]").contains("\"A\" of env"));
        assert!(with("hooks: [{hookName: create, path: /x}]").contains("unknown variant `create`"));
        assert!(with("hooks: [{hookName: prestart, path: x}]").contains("path \"x\" is not absolute"));
    }
}
