//! What hooks are told of a container: its state on standard input, and the `config.json` of its bundle.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::hook::{Hook, Stage, StagedHook};

/// The version of the OCI runtime specification.
const OCI_VERSION: &str = "1.0.2";

/// A container that is being made.
#[derive(Debug, Clone, Default)]
pub struct Container<'a> {
    /// Its name.
    pub id: &'a str,
    /// The number of a process in its namespaces.
    pub pid: i32,
    /// The bundle's directory, a path of the node.
    pub bundle: &'a str,
    /// The root directory, a path of the node.
    pub root: &'a str,
    /// Whether the root directory is to become read-only.
    pub read_only: bool,
    /// The hostname, which is the node's.
    pub hostname: &'a str,
    /// The command with its arguments.
    pub arguments: &'a [String],
    /// The variables, `NAME=VALUE` each.
    pub environment: &'a [String],
    /// The directory in which the command starts.
    pub working_directory: &'a str,
    /// The user's id.
    pub uid: u32,
    /// The user's group.
    pub gid: u32,
    /// The user's other groups.
    pub groups: &'a [u32],
    /// The annotations, names and values.
    pub annotations: &'a [(String, String)],
    /// Whether the user asked for a path of the node.
    pub has_bind_mounts: bool,
    /// The mounts, in order.
    pub mounts: &'a [BundleMount],
    /// The device nodes, paths in the container.
    pub devices: &'a [Value],
}

/// A mount, as `config.json` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BundleMount {
    /// The path in the container.
    pub destination: String,
    /// `bind` or `tmpfs`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The path of the node, or `tmpfs`.
    pub source: String,
    /// The options of mount(8).
    pub options: Vec<&'static str>,
}

impl Container<'_> {
    /// The state (OCI runtime specification, "State"), as hooks get it before the container's command starts.
    #[must_use]
    pub fn state(&self) -> Value {
        json!({
            "ociVersion": OCI_VERSION,
            "id": self.id,
            "status": "creating",
            "pid": self.pid,
            "bundle": self.bundle,
            "annotations": self.annotations(),
        })
    }

    /// The `config.json` of the bundle: what hooks look for in it. Nothing else reads it.
    #[must_use]
    pub fn config(&self, hooks: &[StagedHook]) -> Value {
        let of = |stage: Stage| -> Vec<&Hook> {
            hooks.iter().filter(|hook| hook.stage == stage).map(|hook| &hook.hook).collect()
        };
        let hooks: BTreeMap<&str, Vec<&Hook>> =
            Stage::ALL.into_iter().map(|stage| (stage.name(), of(stage))).filter(|(_, of)| !of.is_empty()).collect();
        json!({
            "ociVersion": OCI_VERSION,
            "process": {
                "terminal": false,
                "user": {"uid": self.uid, "gid": self.gid, "additionalGids": self.groups},
                "args": self.arguments,
                "env": self.environment,
                "cwd": self.working_directory,
            },
            "root": {"path": self.root, "readonly": self.read_only},
            "hostname": self.hostname,
            "mounts": self.mounts,
            "hooks": hooks,
            "annotations": self.annotations(),
            "linux": {
                "namespaces": [{"type": "user"}, {"type": "mount"}],
                "devices": self.devices,
            },
        })
    }

    fn annotations(&self) -> BTreeMap<&str, &str> {
        self.annotations.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_find_what_they_look_for() {
        let annotations = [("a.b".to_owned(), "c".to_owned())];
        let mounts = [BundleMount {
            destination: "/data".into(),
            kind: "bind",
            source: "/srv".into(),
            options: vec!["rbind", "ro"],
        }];
        let container = Container {
            id: "6.0",
            pid: 7,
            bundle: "/b",
            root: "/b/root",
            arguments: &["/bin/sh".to_owned()],
            environment: &["A=1".to_owned()],
            uid: 1001,
            annotations: &annotations,
            mounts: &mounts,
            ..Container::default()
        };
        let state = container.state();
        let expected = json!({"ociVersion": "1.0.2", "id": "6.0", "status": "creating", "pid": 7, "bundle": "/b",
                              "annotations": {"a.b": "c"}});
        assert_eq!(state, expected);
        let hook = Hook { path: "/h".into(), args: Vec::new(), env: Vec::new(), timeout: Some(3) };
        let hooks = [StagedHook { stage: Stage::CreateContainer, hook, origin: "/f".into() }];
        let config = container.config(&hooks);
        assert_eq!(config["root"], json!({"path": "/b/root", "readonly": false}));
        assert_eq!(config["process"]["args"], json!(["/bin/sh"]));
        assert_eq!(config["process"]["user"]["uid"], 1001);
        let mount = json!([{"destination": "/data", "type": "bind", "source": "/srv", "options": ["rbind", "ro"]}]);
        assert_eq!(config["mounts"], mount);
        assert_eq!(config["hooks"], json!({"createContainer": [{"path": "/h", "timeout": 3}]}));
    }
}
