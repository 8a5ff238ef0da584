//! What a device changes in a container (`containerEdits`).

use std::path::{Component, Path, PathBuf};

use parallax_oci_hooks::{Hook, Stage};
use serde::Deserialize;

use crate::error::SpecificationError;

/// The changes of one device, or of all devices of a specification.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits {
    /// Variables, `NAME=VALUE` each.
    pub environment: Vec<String>,
    /// Device nodes.
    pub nodes: Vec<DeviceNode>,
    /// Mounts, in order.
    pub mounts: Vec<Mount>,
    /// Hooks, in order.
    pub hooks: Vec<(Stage, Hook)>,
    /// Groups that the container's processes are to be in.
    pub groups: Vec<u32>,
    /// Names of edits that a container of a step cannot have.
    pub refused: Vec<&'static str>,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// The path in the container.
    pub target: PathBuf,
    /// The path on the node.
    pub source: PathBuf,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The path on the node; `None` for an empty directory in memory.
    pub source: Option<PathBuf>,
    /// The path in the container.
    pub target: PathBuf,
    /// True if nothing can be written there.
    pub read_only: bool,
    /// True if mounts that appear below the source later do not appear in the container.
    pub private: bool,
}

/// The edits as written. Unknown ones are errors: a container must not lack what its device needs.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Written {
    env: Vec<String>,
    device_nodes: Vec<WrittenNode>,
    net_devices: Vec<serde_json::Value>,
    hooks: Vec<WrittenHook>,
    mounts: Vec<WrittenMount>,
    intel_rdt: Option<serde_json::Value>,
    additional_gids: Vec<u32>,
}

/// Numbers, owner and permissions of the node are of no use: a node of the machine is shown as it is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenNode {
    path: PathBuf,
    #[serde(default)]
    host_path: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenMount {
    host_path: PathBuf,
    container_path: PathBuf,
    #[serde(default)]
    options: Vec<String>,
    #[serde(default, rename = "type")]
    kind: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenHook {
    hook_name: Stage,
    #[serde(flatten)]
    hook: Hook,
}

impl Edits {
    /// Adds other edits behind these.
    pub fn extend(&mut self, other: Self) {
        self.environment.extend(other.environment);
        self.nodes.extend(other.nodes);
        self.mounts.extend(other.mounts);
        self.hooks.extend(other.hooks);
        self.groups.extend(other.groups);
        self.refused.extend(other.refused);
    }
}

impl TryFrom<Written> for Edits {
    type Error = SpecificationError;

    fn try_from(written: Written) -> Result<Self, SpecificationError> {
        let is_variable = |text: &&String| text.split_once('=').is_some_and(|(name, _)| !name.is_empty());
        if let Some(text) = written.env.iter().find(|text| !is_variable(text)) {
            return Err(SpecificationError::Environment(text.clone()));
        }
        let mut hooks = Vec::new();
        for WrittenHook { hook_name, hook } in written.hooks {
            hook.check()?;
            hooks.push((hook_name, hook));
        }
        let refused = [
            (!written.net_devices.is_empty()).then_some("netDevices"),
            written.intel_rdt.is_some().then_some("intelRdt"),
        ];
        Ok(Self {
            environment: written.env,
            nodes: written.device_nodes.into_iter().map(node).collect::<Result<_, _>>()?,
            mounts: written.mounts.into_iter().map(mount).collect::<Result<_, _>>()?,
            hooks,
            groups: written.additional_gids,
            refused: refused.into_iter().flatten().collect(),
        })
    }
}

fn node(written: WrittenNode) -> Result<DeviceNode, SpecificationError> {
    let target = absolute(written.path)?;
    let has_source = !written.host_path.as_os_str().is_empty();
    let source = if has_source { absolute(written.host_path)? } else { target.clone() };
    Ok(DeviceNode { target, source })
}

fn mount(written: WrittenMount) -> Result<Mount, SpecificationError> {
    let source = match written.kind.as_str() {
        "" | "bind" | "none" => Some(absolute(written.host_path)?),
        "tmpfs" => None,
        other => return Err(SpecificationError::MountType(other.to_owned())),
    };
    let target = absolute(written.container_path)?;
    if target == Path::new("/") {
        return Err(SpecificationError::Path(target));
    }
    let mut mount = Mount { source, target, read_only: false, private: false };
    for option in &written.options {
        match option.as_str() {
            "ro" => mount.read_only = true,
            "rw" => mount.read_only = false,
            "private" | "rprivate" => mount.private = true,
            // A mount has the mounts below its source and gets later ones, unless it is private. Device nodes and set-user-id
            // programs are honoured as on the node.
            _ => {}
        }
    }
    Ok(mount)
}

fn absolute(path: PathBuf) -> Result<PathBuf, SpecificationError> {
    let is_plain = path.is_absolute() && !path.components().any(|part| part == Component::ParentDir);
    if is_plain { Ok(path) } else { Err(SpecificationError::Path(path)) }
}
