//! An image's configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::Platform;

/// The keys of [`Execution`] that decide whether a program can be started.
pub const EXECUTION_KEYS: Keys = Keys {
    entrypoint: "Entrypoint",
    command: "Cmd",
    environment: "Env",
    working_directory: "WorkingDir",
    user: "User",
};

/// Names of keys in an image's configuration, for messages.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    /// [`Execution::entrypoint`].
    pub entrypoint: &'static str,
    /// [`Execution::command`].
    pub command: &'static str,
    /// [`Execution::environment`].
    pub environment: &'static str,
    /// [`Execution::working_directory`].
    pub working_directory: &'static str,
    /// [`Execution::user`].
    pub user: &'static str,
}

/// What the configuration of an image says beside [`Execution`], which is read apart: an image that no program can be executed in can be
/// migrated all the same. A value of the wrong type counts as absent, except where something depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Configuration {
    /// Time of the build.
    #[serde(deserialize_with = "lenient")]
    pub created: Option<String>,
    /// Operating system; may be empty.
    #[serde(deserialize_with = "lenient")]
    pub os: Option<String>,
    /// Architecture; may be empty.
    #[serde(deserialize_with = "lenient")]
    pub architecture: Option<String>,
    /// Variant of the architecture; may be empty.
    #[serde(deserialize_with = "lenient")]
    pub variant: Option<String>,
    /// The layers.
    pub rootfs: Option<RootFs>,
}

/// The layers of an image, unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// The digests of the layers' tars, uncompressed, base first.
    pub diff_ids: Vec<String>,
}

/// How programs of an image are executed (`config` of the configuration).
///
/// A value of the wrong type counts as absent, except in the variables and the working directory, on which every program depends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Execution {
    /// Variables, `NAME=VALUE` each.
    #[serde(rename = "Env")]
    pub environment: Option<Vec<String>>,
    /// The program that is run with the command as its arguments, if the user asks for it, and its first arguments.
    #[serde(rename = "Entrypoint", deserialize_with = "lenient")]
    pub entrypoint: Option<Vec<String>>,
    /// The command if the user gives none, or the entry point's arguments.
    #[serde(rename = "Cmd", deserialize_with = "lenient")]
    pub command: Option<Vec<String>>,
    /// The user that the image's maker meant, by name or number, perhaps with a group.
    #[serde(rename = "User", deserialize_with = "lenient")]
    pub user: Option<String>,
    /// The directory in which programs start; may be empty.
    #[serde(rename = "WorkingDir")]
    pub working_directory: Option<String>,
    /// What the image's maker added.
    #[serde(rename = "Labels", deserialize_with = "lenient")]
    pub labels: Option<BTreeMap<String, String>>,
}

impl Configuration {
    /// The image's platform, if it has one.
    #[must_use]
    pub fn platform(&self) -> Option<Platform> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (os, architecture) = given(&self.os).zip(given(&self.architecture))?;
        Some(Platform { os, architecture, variant: given(&self.variant) })
    }

    /// The image's platform, if it has one that is not this machine's.
    #[must_use]
    pub fn other_platform(&self) -> Option<Platform> {
        self.platform().filter(|platform| !Platform::of_this_machine().takes(platform))
    }

    /// The digests of the layers' tars, as they are written, base first.
    #[must_use]
    pub fn diff_ids(&self) -> &[String] {
        self.rootfs.as_ref().map_or(&[], |rootfs| &rootfs.diff_ids)
    }
}

impl Execution {
    /// Reads it from an image's configuration, JSON.
    ///
    /// # Errors
    /// The text is no configuration, or has variables or a working directory of another type.
    pub fn of_configuration(text: &str) -> serde_json::Result<Self> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Configuration {
            config: Option<Execution>,
        }
        Ok(serde_json::from_str::<Configuration>(text)?.config.unwrap_or_default())
    }

    /// The directory in which programs start; `None` if the image names none, or a relative one.
    #[must_use]
    pub fn directory(&self) -> Option<PathBuf> {
        self.working_directory.as_ref().map(PathBuf::from).filter(|path| path.is_absolute())
    }
}

/// Reads a value; `None` if it is of another type.
fn lenient<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: serde::de::DeserializeOwned,
{
    let value = Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> serde_json::Result<Configuration> {
        serde_json::from_str(text)
    }

    #[test]
    fn an_image_may_say_nothing() {
        for text in ["{}", r#"{"config":null,"rootfs":null,"os":""}"#, r#"{"unknown":1}"#] {
            let read = parse(text).unwrap();
            assert_eq!((read.diff_ids().len(), read.platform()), (0, None), "{text}");
            assert_eq!(Execution::of_configuration(text).unwrap(), Execution::default(), "{text}");
        }
        assert_eq!(Execution::of_configuration(r#"{"config":{}}"#).unwrap(), Execution::default());
    }

    #[test]
    fn what_a_configuration_says() {
        let text = r#"{"os":"linux","architecture":"arm64","variant":"v8","created":"2025-01-01T00:00:00Z",
            "rootfs":{"type":"layers","diff_ids":["sha256:a"]},
            "config":{"Env":["A=b"],"Entrypoint":["e"],"Cmd":null,"User":"0","WorkingDir":"/w","Labels":{"a":"b"}}}"#;
        let read = parse(text).unwrap();
        assert_eq!(read.platform().unwrap().to_string(), "linux/arm64/v8");
        assert_eq!(read.diff_ids(), ["sha256:a"]);
        let own = Platform::of_this_machine();
        assert_eq!(read.other_platform().is_none(), own.takes(&read.platform().unwrap()));
        let own = Configuration { os: Some(own.os), architecture: Some(own.architecture), ..Configuration::default() };
        assert_eq!(own.other_platform(), None);
        let execution = Execution::of_configuration(text).unwrap();
        assert_eq!(execution.environment, Some(vec!["A=b".to_owned()]));
        assert_eq!(execution.directory(), Some("/w".into()));
        assert_eq!((execution.entrypoint, execution.command), (Some(vec!["e".to_owned()]), None));
        let relative = Execution { working_directory: Some("w".to_owned()), ..Execution::default() };
        assert_eq!(relative.directory(), None);
    }

    #[test]
    fn wrong_types_are_refused_only_where_they_matter() {
        let odd = r#"{"config":{"Entrypoint":"sh","Cmd":[1],"User":7,"Labels":[]}}"#;
        assert_eq!(Execution::of_configuration(odd).unwrap(), Execution::default());
        for text in [
            r#"{"config":{"Env":"A=b"}}"#,
            r#"{"config":{"WorkingDir":["/"]}}"#,
            r#"{"config":{},"config":{}}"#,
            r#"{"config":7}"#,
        ] {
            assert!(Execution::of_configuration(text).is_err(), "{text}");
            assert!(parse(text).is_ok(), "{text}");
        }
        assert!(parse(r#"{"rootfs":{"diff_ids":"sha256:a"}}"#).is_err());
    }

    #[test]
    fn an_execution_is_written_with_the_keys_that_messages_name() {
        let Keys { entrypoint, command, environment, working_directory, user } = EXECUTION_KEYS;
        let text = serde_json::json!({
            entrypoint: ["a"], command: ["b"], environment: ["C=d"], working_directory: "/e", user: "f", "Labels": {},
        });
        assert_eq!(serde_json::to_value(serde_json::from_value::<Execution>(text.clone()).unwrap()).unwrap(), text);
    }
}
