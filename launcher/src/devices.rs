//! The devices of the step's container, and what they change in it: resolved on the node, since each node has its own.
//!
//! `/dev` of the container is the node's, so a device node that the node has needs nothing. What is left are devices of
//! specifications (CDI): variables, mounts, hooks, and nodes that are elsewhere in the container.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use parallax_cdi::{DeviceNode, Edits, Specifications, Unknown};
use parallax_format::device::{CdiName, DeviceName, WantedDevice};
use parallax_oci_hooks::StagedHook;
use parallax_request::{Mount, MountSource};

/// The directory of device nodes, which the container shares with the node.
const DEV: &str = "/dev";

/// What the devices change in the container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Devices {
    /// Mounts, in order.
    pub mounts: Vec<Mount>,
    /// Variables of the tasks, names and values.
    pub environment: Vec<(String, String)>,
    /// Hooks, in order.
    pub hooks: Vec<StagedHook>,
    /// Device nodes: where they are in the container and on the node.
    pub nodes: Vec<DeviceNode>,
}

/// The node, as far as devices are concerned.
pub(crate) struct Node<'a> {
    /// Its name.
    pub name: &'a str,
    /// The user's groups.
    pub groups: &'a [u32],
    /// Returns the devices, and directories of devices, that match a pattern.
    pub matching: &'a dyn Fn(&str) -> Vec<PathBuf>,
    /// Whether a path exists.
    pub exists: &'a dyn Fn(&Path) -> bool,
}

/// The message about a name that means no device of the node. A file that is not usable may have it.
fn unknown(error: &Unknown, specifications: &Specifications, node: &Node<'_>) -> String {
    let unusable: Vec<String> =
        specifications.unusable.iter().map(|(path, error)| format!("{}: {error}", path.display())).collect();
    let unusable = if unusable.is_empty() { String::new() } else { format!(" (not usable: {})", unusable.join("; ")) };
    format!("on the node {} {error}{unusable}", node.name)
}

/// Returns the paths of devices, and of directories, that match a pattern.
pub(crate) fn matching(pattern: &str) -> Vec<PathBuf> {
    let is_device = |path: &PathBuf| {
        fs::metadata(path)
            .is_ok_and(|file| file.is_dir() || file.file_type().is_char_device() || file.file_type().is_block_device())
    };
    glob::glob(pattern).map(|paths| paths.filter_map(Result::ok).filter(is_device).collect()).unwrap_or_default()
}

/// Resolves the devices on a node.
///
/// # Errors
/// A message for the user: the node does not have a device, or its container cannot have it.
pub(crate) fn resolve(
    wanted: &[WantedDevice],
    specifications: &Specifications,
    node: &Node<'_>,
) -> Result<Devices, String> {
    let mut devices = Devices::default();
    let mut names = Vec::new();
    for device in wanted {
        match &device.name {
            DeviceName::Path(pattern) => {
                let found = (node.matching)(pattern);
                if found.is_empty() && !device.optional {
                    return Err(format!(
                        "the node {} has no device {pattern}; \"?{pattern}\" leaves it out where it is missing",
                        node.name
                    ));
                }
                for path in found {
                    devices.add_node(DeviceNode { target: path.clone(), source: path }, node)?;
                }
            }
            DeviceName::Cdi(name) if device.optional && is_left_out(name, specifications, node) => {}
            DeviceName::Cdi(name) => names.push(name.clone()),
        }
    }
    let edits = specifications.devices.edits(&names).map_err(|error| unknown(&error, specifications, node))?;
    for (path, edits) in edits {
        devices.apply(path, edits, node).map_err(|error| {
            format!("{} on the node {}: {error}; tell the administrator", path.display(), node.name)
        })?;
    }
    Ok(devices)
}

/// Whether a node does not have an optional device: no specification has it, or the node has no device node of it. Other errors are not
/// a reason to leave it out.
fn is_left_out(name: &CdiName, specifications: &Specifications, node: &Node<'_>) -> bool {
    match specifications.devices.edits(std::slice::from_ref(name)) {
        Ok(edits) => edits.iter().flat_map(|(_, edits)| &edits.nodes).any(|own| !(node.exists)(&own.source)),
        Err(Unknown::Missing { .. }) => true,
        Err(Unknown::Conflict { .. }) => false,
    }
}

impl Devices {
    fn apply(&mut self, path: &Path, edits: &Edits, node: &Node<'_>) -> Result<(), String> {
        if let Some(name) = edits.refused.first() {
            return Err(format!("\"{name}\" needs privileges, which the container of a step does not have"));
        }
        if let Some(group) = edits.groups.iter().find(|group| !node.groups.contains(group)) {
            return Err(format!("the device needs the group {group}, of which you are no member"));
        }
        for own in &edits.nodes {
            self.add_node(own.clone(), node)?;
        }
        for mount in &edits.mounts {
            let source = match &mount.source {
                None => MountSource::Tmpfs,
                Some(source) if (node.exists)(source) => MountSource::Path(source.clone()),
                Some(source) => return Err(format!("{} does not exist", source.display())),
            };
            let (target, read_only, private) = (mount.target.clone(), mount.read_only, mount.private);
            self.mounts.push(Mount { source, target, read_only, private, optional: false });
        }
        let variables = edits.environment.iter().filter_map(|variable| variable.split_once('='));
        self.environment.extend(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let hooks = edits.hooks.iter().filter(|(stage, _)| stage.runs());
        self.hooks.extend(hooks.map(|(stage, hook)| StagedHook {
            stage: *stage,
            hook: hook.clone(),
            origin: path.to_owned(),
        }));
        Ok(())
    }

    /// Adds a device node. One in the node's `/dev` is there already under its own path.
    fn add_node(&mut self, own: DeviceNode, node: &Node<'_>) -> Result<(), String> {
        let (source, target) = (&own.source, &own.target);
        if !(node.exists)(source) {
            return Err(format!("{} does not exist, and only root can make device nodes", source.display()));
        }
        let is_shared = target.starts_with(DEV);
        if is_shared && source != target && !(node.exists)(target) {
            return Err(format!(
                "{} cannot be shown as {}: {DEV} is the node's, which has no such file",
                source.display(),
                target.display()
            ));
        }
        if !is_shared || source != target {
            let (source, target) = (MountSource::Path(source.clone()), target.clone());
            self.mounts.push(Mount { source, target, read_only: false, private: false, optional: false });
        }
        if !self.nodes.contains(&own) {
            self.nodes.push(own);
        }
        Ok(())
    }

    /// The device nodes as `config.json` has them (OCI runtime specification, "Devices").
    pub(crate) fn described(&self) -> Vec<serde_json::Value> {
        let describe = |own: &DeviceNode| {
            let file = fs::metadata(&own.source).ok()?;
            let kind = if file.file_type().is_block_device() { "b" } else { "c" };
            let (major, minor) = (rustix::fs::major(file.rdev()), rustix::fs::minor(file.rdev()));
            let path = own.target.display().to_string();
            let is_node = file.file_type().is_block_device() || file.file_type().is_char_device();
            is_node.then(|| serde_json::json!({"path": path, "type": kind, "major": major, "minor": minor}))
        };
        self.nodes.iter().filter_map(describe).collect()
    }
}

#[cfg(test)]
mod tests {
    use parallax_cdi::{Format, Specification};

    use super::*;

    const SPECIFICATION: &str = "cdiVersion: 0.7.0
kind: a.com/gpu
devices:
- name: zero
  containerEdits:
    deviceNodes: [{path: /dev/gpu0}, {path: /dev/gpu, hostPath: /dev/gpu0}, {path: /opt/gpu, hostPath: /dev/gpu0}]
    mounts: [{hostPath: /usr/lib/gpu.so, containerPath: /usr/lib/gpu.so, options: [ro]}, {hostPath: none, containerPath: /t, type: tmpfs}]
    hooks: [{hookName: createContainer, path: /h}, {hookName: poststop, path: /h}]
- {name: missing, containerEdits: {deviceNodes: [{path: /dev/missing}]}}
- {name: moved, containerEdits: {deviceNodes: [{path: /dev/missing, hostPath: /dev/gpu0}]}}
- {name: library, containerEdits: {mounts: [{hostPath: /missing.so, containerPath: /x}]}}
- {name: group, containerEdits: {additionalGids: [44]}}
- {name: member, containerEdits: {additionalGids: [7]}}
- {name: cache, containerEdits: {intelRdt: {closID: x}}}
containerEdits: {env: [A=1=2, B=]}
";

    fn specifications() -> Specifications {
        let mut all = Specifications::default();
        all.devices.add(0, "/etc/cdi/a.yaml".into(), Specification::parse(SPECIFICATION, Format::Yaml).unwrap());
        all
    }

    fn resolved(wanted: &[&str], specifications: &Specifications) -> Result<Devices, String> {
        let wanted: Vec<WantedDevice> = wanted.iter().map(|text| text.parse().unwrap()).collect();
        let exists = |path: &Path| !path.starts_with("/dev/missing") && !path.starts_with("/missing.so");
        let matching = |pattern: &str| match pattern {
            "/dev/gpu*" => vec!["/dev/gpu".into(), "/dev/gpu0".into()],
            path if exists(Path::new(path)) => vec![path.into()],
            _ => Vec::new(),
        };
        resolve(&wanted, specifications, &Node { name: "n1", groups: &[7], matching: &matching, exists: &exists })
    }

    fn of(wanted: &[&str]) -> Result<Devices, String> {
        resolved(wanted, &specifications())
    }

    #[test]
    fn a_device_changes_what_its_specification_says() {
        let devices = of(&["a.com/gpu=zero", "a.com/gpu=member"]).unwrap();
        let mounts: Vec<String> =
            devices.mounts.iter().map(|mount| format!("{} {}", mount.target.display(), mount.read_only)).collect();
        assert_eq!(mounts, ["/dev/gpu false", "/opt/gpu false", "/usr/lib/gpu.so true", "/t false"]);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(devices.environment, [pair("A", "1=2"), pair("B", "")]);
        assert_eq!((devices.hooks.len(), devices.nodes.len()), (1, 3));
        assert_eq!(devices.hooks[0].origin, Path::new("/etc/cdi/a.yaml"));
    }

    #[test]
    fn device_nodes_of_the_node_need_nothing() {
        let devices = of(&["/dev/gpu*", "?/dev/missing", "?a.com/gpu=none", "?a.com/gpu=missing"]).unwrap();
        assert_eq!((devices.nodes.len(), devices.mounts.len(), devices.environment.len()), (2, 0, 0));
        // One that is elsewhere is mounted.
        assert_eq!(of(&["/srv/gpu"]).unwrap().mounts[0].target, Path::new("/srv/gpu"));
    }

    #[test]
    fn what_a_container_cannot_have_is_told() {
        let said = |wanted: &str| of(&[wanted]).unwrap_err();
        assert_eq!(
            said("/dev/missing"),
            "the node n1 has no device /dev/missing; \"?/dev/missing\" leaves it out where it is missing"
        );
        assert!(said("a.com/gpu=zer").starts_with("on the node n1 there is no device \"a.com/gpu=zer\"; did you mean"));
        assert!(said("a.com/gpu=missing").contains("/dev/missing does not exist, and only root can make"));
        assert!(said("a.com/gpu=moved").contains("/dev/gpu0 cannot be shown as /dev/missing"));
        assert!(said("a.com/gpu=library").contains("/missing.so does not exist"));
        assert!(said("a.com/gpu=group").contains("needs the group 44, of which you are no member"));
        let cache = said("?a.com/gpu=cache");
        assert!(cache.starts_with("/etc/cdi/a.yaml on the node n1: \"intelRdt\" needs privileges"), "{cache}");
    }

    #[test]
    fn files_that_are_not_usable_are_told_with_a_name_that_is_unknown() {
        let unusable = vec![("/etc/cdi/bad.json".into(), "EOF".to_owned())];
        let specifications = Specifications { unusable, ..Specifications::default() };
        let said = resolved(&["a.com/gpu=zero"], &specifications).unwrap_err();
        assert!(said.ends_with("(not usable: /etc/cdi/bad.json: EOF)"), "{said}");
        assert!(resolved(&["?a.com/gpu=zero"], &specifications).is_ok());
    }

    #[test]
    fn only_devices_and_directories_match() {
        assert_eq!(matching("/dev/nul[l]"), [Path::new("/dev/null")]);
        assert_eq!(matching("/dev"), [Path::new("/dev")]);
        assert!(matching("/etc/passwd").is_empty() && matching("/dev/[").is_empty());
    }
}
