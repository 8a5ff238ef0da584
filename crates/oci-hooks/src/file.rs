//! A file of a `hooks.d` directory (schema 1.0.0).

use std::collections::BTreeMap;
use std::path::Path;

use regex_lite::Regex;
use serde::Deserialize;

use crate::container::Container;
use crate::hook::{Hook, HookError, Stage, StagedHook};

/// The version of the schema that is supported.
const VERSION: &str = "1.0.0";

/// A hook with the conditions under which containers have it.
#[derive(Debug, Clone)]
pub struct HookFile {
    hook: Hook,
    when: When,
    stages: Vec<Stage>,
}

/// Why a file is invalid.
#[derive(Debug, thiserror::Error)]
pub enum HookFileError {
    /// Not JSON, or not of the schema.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// Another version of the schema.
    #[error("version \"{0}\" is not supported; write \"{VERSION}\"")]
    Version(String),
    /// The hook is invalid.
    #[error("{0}")]
    Hook(#[from] HookError),
    /// A regular expression is invalid.
    #[error("the regular expression \"{0}\" is invalid: {1}")]
    Pattern(String, regex_lite::Error),
    /// No condition, or no stage.
    #[error("\"{0}\" is empty")]
    Empty(&'static str),
}

/// The file as written.
#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    version: String,
    hook: Hook,
    when: WrittenWhen,
    stages: Vec<Stage>,
}

/// An unknown condition is an error: without it the hook would run for more containers than were meant.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenWhen {
    always: Option<bool>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    commands: Vec<String>,
    has_bind_mounts: Option<bool>,
}

/// The conditions, all of which must hold.
#[derive(Debug, Clone)]
struct When {
    always: Option<bool>,
    annotations: Vec<(Regex, Regex)>,
    commands: Vec<Regex>,
    has_bind_mounts: Option<bool>,
}

impl HookFile {
    /// Parses a file.
    ///
    /// # Errors
    /// [`HookFileError`].
    pub fn parse(text: &str) -> Result<Self, HookFileError> {
        // The version comes first: another one may have other fields.
        let value: serde_json::Value = serde_json::from_str(text)?;
        if let Some(version) = value.get("version").and_then(serde_json::Value::as_str).filter(|own| *own != VERSION) {
            return Err(HookFileError::Version(version.to_owned()));
        }
        let written: Written = serde_json::from_value(value)?;
        if written.version != VERSION {
            return Err(HookFileError::Version(written.version));
        }
        written.hook.check()?;
        if written.stages.is_empty() {
            return Err(HookFileError::Empty("stages"));
        }
        Ok(Self { hook: written.hook, when: When::compile(written.when)?, stages: written.stages })
    }

    /// The stages of the hook.
    #[must_use]
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// The hook.
    #[must_use]
    pub fn hook(&self) -> &Hook {
        &self.hook
    }

    /// Returns the hook once for each stage, if this container is to have it. `origin` is the file's path.
    pub fn hooks_for(&self, container: &Container<'_>, origin: &Path) -> impl Iterator<Item = StagedHook> {
        let stages = if self.when.matches(container) { self.stages.as_slice() } else { &[] };
        stages.iter().map(move |stage| StagedHook { stage: *stage, hook: self.hook.clone(), origin: origin.to_owned() })
    }
}

impl When {
    fn compile(written: WrittenWhen) -> Result<Self, HookFileError> {
        let is_empty = written.always.is_none()
            && written.has_bind_mounts.is_none()
            && written.annotations.is_empty()
            && written.commands.is_empty();
        if is_empty {
            return Err(HookFileError::Empty("when"));
        }
        let pattern = |text: &String| Regex::new(text).map_err(|error| HookFileError::Pattern(text.clone(), error));
        let pair = |(key, value): (&String, &String)| Ok::<_, HookFileError>((pattern(key)?, pattern(value)?));
        Ok(Self {
            always: written.always,
            annotations: written.annotations.iter().map(pair).collect::<Result<_, _>>()?,
            commands: written.commands.iter().map(pattern).collect::<Result<_, _>>()?,
            has_bind_mounts: written.has_bind_mounts,
        })
    }

    /// As in Podman, `false` for one of the two words means that the condition never holds.
    fn matches(&self, container: &Container<'_>) -> bool {
        let command = container.arguments.first().map_or("", String::as_str);
        self.always != Some(false)
            && self.has_bind_mounts.is_none_or(|wanted| wanted && container.has_bind_mounts)
            && self.annotations.iter().all(|(key, value)| {
                container.annotations.iter().any(|(name, text)| key.is_match(name) && value.is_match(text))
            })
            && (self.commands.is_empty() || self.commands.iter().any(|pattern| pattern.is_match(command)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(when: &str) -> Result<HookFile, HookFileError> {
        HookFile::parse(&format!(
            r#"{{"version":"1.0.0","hook":{{"path":"/bin/x"}},"when":{when},"stages":["prestart","poststop"]}}"#
        ))
    }

    fn matches(when: &str) -> bool {
        let annotations = [("com.hooks.a".to_owned(), "true".to_owned())];
        let arguments = ["/usr/bin/python3".to_owned()];
        let container = Container {
            annotations: &annotations,
            arguments: &arguments,
            has_bind_mounts: true,
            ..Container::default()
        };
        file(when).unwrap().hooks_for(&container, Path::new("/f")).count() == 2
    }

    #[test]
    fn all_conditions_must_hold() {
        assert!(matches(r#"{"always":true}"#));
        assert!(!matches(r#"{"always":false}"#));
        assert!(matches(r#"{"hasBindMounts":true}"#));
        assert!(!matches(r#"{"hasBindMounts":false}"#));
        assert!(matches(r#"{"annotations":{"^com\\.hooks\\.a$":"^(true|1)$"}}"#));
        assert!(!matches(r#"{"annotations":{"^com\\.hooks\\.a$":"^false$"}}"#));
        assert!(!matches(r#"{"annotations":{"^com":"t","^other$":".*"}}"#));
        assert!(matches(r#"{"commands":["^/bin/sh$","/python[0-9]$"]}"#));
        assert!(!matches(r#"{"commands":["^/bin/sh$"]}"#));
        assert!(matches(r#"{"always":true,"commands":["python"],"annotations":{"a$":"true"}}"#));
        assert!(!matches(r#"{"always":true,"commands":["perl"]}"#));
    }

    #[test]
    fn invalid_files_say_why() {
        let said = |when: &str| file(when).unwrap_err().to_string();
        assert!(said("{}").contains("\"when\" is empty"));
        assert!(said(r#"{"anotations":{"a":"b"}}"#).contains("unknown field `anotations`"));
        assert!(said(r#"{"commands":["("]}"#).contains("\"(\" is invalid"));
        let said = |text: &str| HookFile::parse(text).unwrap_err().to_string();
        assert!(said("{").contains("EOF"));
        assert!(said(r#"{"version":"0.1.0","cmds":["a"]}"#).contains("version \"0.1.0\" is not supported"));
        let with = |hook: &str, stages: &str| {
            said(&format!(r#"{{"version":"1.0.0","hook":{hook},"when":{{"always":true}},"stages":{stages}}}"#))
        };
        assert!(with(r#"{"path":"x"}"#, r#"["prestart"]"#).contains("not absolute"));
        assert!(with(r#"{"path":"/x"}"#, "[]").contains("\"stages\" is empty"));
        assert!(with(r#"{"path":"/x"}"#, r#"["start"]"#).contains("unknown variant `start`"));
        let without = r#"{"hook":{"path":"/x"},"when":{"always":true},"stages":["prestart"]}"#;
        assert!(said(without).contains("version \"\" is not supported"));
    }
}
