//! A hook, and the stages of a container.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A point of a container's life for which there are hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// Before [`Stage::CreateRuntime`]; deprecated in favour of it, and used by most hooks.
    Prestart,
    /// The container's namespaces and mounts are there; its root directory is not the root of a process yet.
    CreateRuntime,
    /// After [`Stage::CreateRuntime`], in the container's namespaces.
    CreateContainer,
    /// In the container, before its command.
    StartContainer,
    /// After the start of the container's command.
    Poststart,
    /// After the container was removed.
    Poststop,
}

impl Stage {
    /// All stages, in the order in which a container goes through them.
    pub const ALL: [Self; 6] = [
        Self::Prestart,
        Self::CreateRuntime,
        Self::CreateContainer,
        Self::StartContainer,
        Self::Poststart,
        Self::Poststop,
    ];

    /// Whether hooks of this stage run for the container of a step. Tasks join a container that is complete, so there is no moment
    /// for the other stages.
    #[must_use]
    pub const fn runs(self) -> bool {
        matches!(self, Self::Prestart | Self::CreateRuntime | Self::CreateContainer)
    }

    /// The stage's name in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A program to run (OCI runtime specification, "POSIX-platform Hooks").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// The program, an absolute path of the node.
    pub path: PathBuf,
    /// The arguments, with the program's name before them as in execv(3). Empty: the name alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// The environment, `NAME=VALUE` each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Seconds after which the program is killed. `None`: no limit of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
}

/// Why a hook is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// The program is not given by an absolute path.
    #[error("the hook's path \"{0}\" is not absolute")]
    Path(PathBuf),
    /// The timeout is not positive.
    #[error("the hook's timeout is 0")]
    Timeout,
    /// An entry of the environment is not `NAME=VALUE`.
    #[error("\"{0}\" of the hook's environment is not NAME=VALUE")]
    Environment(String),
}

impl Hook {
    /// Checks what the specification demands.
    ///
    /// # Errors
    /// [`HookError`].
    pub fn check(&self) -> Result<(), HookError> {
        if !self.path.is_absolute() {
            return Err(HookError::Path(self.path.clone()));
        }
        if self.timeout == Some(0) {
            return Err(HookError::Timeout);
        }
        let is_variable = |text: &&String| text.split_once('=').is_some_and(|(name, _)| !name.is_empty());
        match self.env.iter().find(|text| !is_variable(text)) {
            Some(text) => Err(HookError::Environment(text.clone())),
            None => Ok(()),
        }
    }

    /// The arguments without the program's name.
    #[must_use]
    pub fn arguments(&self) -> &[String] {
        self.args.get(1..).unwrap_or_default()
    }

    /// The program's file name, for sentences.
    #[must_use]
    pub fn file_name(&self) -> &Path {
        self.path.file_name().map_or(&self.path, Path::new)
    }
}

/// A hook that a container is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedHook {
    /// When it runs.
    pub stage: Stage,
    /// What runs.
    pub hook: Hook,
    /// The file that asks for it.
    pub origin: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(json: &str) -> Result<(), HookError> {
        serde_json::from_str::<Hook>(json).unwrap().check()
    }

    #[test]
    fn hooks_are_checked() {
        assert_eq!(hook(r#"{"path":"/bin/x","args":["x","-v"],"env":["A=","B=1=2"],"timeout":3}"#), Ok(()));
        assert_eq!(hook(r#"{"path":"x"}"#), Err(HookError::Path("x".into())));
        assert_eq!(hook(r#"{"path":"/x","timeout":0}"#), Err(HookError::Timeout));
        assert_eq!(hook(r#"{"path":"/x","env":["A"]}"#), Err(HookError::Environment("A".into())));
        assert_eq!(hook(r#"{"path":"/x","env":["=1"]}"#), Err(HookError::Environment("=1".into())));
    }

    #[test]
    fn stages_have_the_names_of_the_specification() {
        for stage in Stage::ALL {
            assert_eq!(serde_json::to_value(stage).unwrap(), stage.name());
        }
        let run: Vec<&str> = Stage::ALL.into_iter().filter(|stage| stage.runs()).map(Stage::name).collect();
        assert_eq!(run, ["prestart", "createRuntime", "createContainer"]);
    }
}
