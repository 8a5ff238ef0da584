//! Errors in an image's configuration that prevent programs from starting (pure). Such an image is migrated nevertheless: it may
//! be a base for others, or be run with other settings.

use std::fmt;

use parallax_format::oci::{EXECUTION_KEYS, Keys};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Maximum length of an argument or variable in bytes, the final NUL included
/// (`MAX_ARG_STRLEN`, 32 pages; 128 KiB with pages of 4 KiB).
const MAX_ARG_STRLEN: usize = 128 << 10;
/// Maximum total size of arguments and variables in bytes: a quarter of the usual limit of 8 MiB for the stack
/// (`execve(2)`).
const MAX_ARGS_AND_ENV: usize = 2 << 20;
/// Maximum length of a value in a message, in bytes.
const MAX_SHOWN: usize = 40;

/// A JSON object with duplicate keys.
struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(pairs)
            }
        }
        deserializer.deserialize_map(Pairs).map(Object)
    }
}

impl<'a> Object<'a> {
    fn parse(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    fn values(&self, key: &str) -> impl Iterator<Item = &'a RawValue> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| *value)
    }

    /// Notes keys that are there twice: Podman takes the last, other readers refuse the file.
    fn note_duplicates(&self, of: &str, keys: &[&str], notes: &mut Vec<String>) {
        for key in keys.iter().filter(|key| self.values(key).count() > 1) {
            notes.push(format!("{of} has the key \"{key}\" more than once: steps with the image may be refused"));
        }
    }

    /// The last value of a key, null for none; notes one of the wrong type.
    fn value<T: DeserializeOwned>(&self, key: &str, must_be: &str, notes: &mut Vec<String>) -> Option<T> {
        let raw = self.values(key).last()?;
        let value: Result<Option<T>, _> = serde_json::from_str(raw.get());
        value.unwrap_or_else(|_| {
            notes.push(format!("{key} is {}, and must be {must_be}: no program can be started", shown(raw.get())));
            None
        })
    }
}

/// Returns the errors in an image's configuration, one sentence each.
pub(crate) fn defects(config: &str) -> Vec<String> {
    let mut notes = Vec::new();
    let Some(config) = Object::parse(config) else { return notes };
    config.note_duplicates("the configuration", &["config", "os", "architecture", "variant"], &mut notes);
    let Some(raw) = config.values("config").last().filter(|raw| raw.get() != "null") else { return notes };
    let Some(execution) = Object::parse(raw.get()) else {
        notes.push(format!("config is {}, and must be an object: no program can be started", shown(raw.get())));
        return notes;
    };
    let Keys { entrypoint, command, environment, working_directory, user } = EXECUTION_KEYS;
    let keys = [entrypoint, command, environment, working_directory, user];
    execution.note_duplicates("config", &keys, &mut notes);
    let mut strings = |key| execution.value::<Vec<String>>(key, "a list of strings", &mut notes).unwrap_or_default();
    let programs = [(entrypoint, strings(entrypoint)), (command, strings(command))];
    let variables = strings(environment);
    let directory: Option<String> = execution.value(working_directory, "a string", &mut notes);
    let _: Option<String> = execution.value(user, "a string", &mut notes);
    for (key, words) in &programs {
        notes.extend(words.iter().filter_map(|word| wrong_string(word, &format!("a word of {key}"))));
    }
    notes.extend(variables.iter().filter_map(|variable| wrong_variable(variable)));
    let words = programs.iter().flat_map(|(_, words)| words);
    let total: usize = words.chain(&variables).map(|text| text.len() + 1).sum();
    if total > MAX_ARGS_AND_ENV {
        notes.push(format!(
            "{entrypoint}, {command} and {environment} have {total} bytes; the kernel takes {MAX_ARGS_AND_ENV} with the usual limit for the stack"
        ));
    }
    if let Some(directory) = directory.filter(|path| !path.is_empty() && !path.starts_with('/')) {
        notes.push(format!(
            "{working_directory} is {}, which is not an absolute path",
            shown(&format!("{directory:?}"))
        ));
    }
    notes
}

fn wrong_variable(variable: &str) -> Option<String> {
    let name = variable.split('=').next().unwrap_or_default();
    if name.is_empty() || name.len() == variable.len() {
        return Some(format!(
            "{} has {}, which is not NAME=VALUE",
            EXECUTION_KEYS.environment,
            shown(&format!("{variable:?}"))
        ));
    }
    wrong_string(variable, &format!("the variable {}", shown(name)))
}

/// Returns the reason why `execve(2)` refuses a string.
fn wrong_string(text: &str, what: &str) -> Option<String> {
    if text.contains('\0') {
        return Some(format!("{what} contains a NUL byte: no program can be started"));
    }
    (text.len() >= MAX_ARG_STRLEN).then(|| {
        let length = text.len();
        format!("{what} has {length} bytes; the kernel takes less than {MAX_ARG_STRLEN}: no program can be started")
    })
}

/// The start of a value, control characters escaped.
fn shown(text: &str) -> String {
    let end =
        text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|&end| end <= MAX_SHOWN).last().unwrap_or(0);
    let start = text[..end].escape_debug().to_string().replace("\\\"", "\"");
    if end < text.len() { start + "…" } else { start }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_config(config: &str) -> Vec<String> {
        defects(&format!(r#"{{"os":"linux","config":{config}}}"#))
    }

    #[test]
    fn images_that_can_run_are_not_warned_of() {
        for config in [
            "null",
            "{}",
            r#"{"Entrypoint":null,"Cmd":["sh"],"Env":["A=b","B=","C=d=e"],"WorkingDir":"","User":"0:0"}"#,
            r#"{"Entrypoint":["a"],"WorkingDir":"/w","Labels":{"a":"b"},"ExposedPorts":{"1/tcp":{}}}"#,
        ] {
            assert_eq!(of_config(config), [""; 0], "{config}");
        }
        assert_eq!(defects("{}"), [""; 0]);
    }

    #[test]
    fn each_defect_is_reported() {
        let long = format!(r#"{{"Env":["A={}"]}}"#, "x".repeat(MAX_ARG_STRLEN - 2));
        let much = format!(r#"{{"Env":[{}"B=c"]}}"#, format!(r#""A={}","#, "x".repeat(100_000)).repeat(21));
        for (config, says) in [
            (r#"{"Entrypoint":"/bin/sh"}"#, "Entrypoint is \"/bin/sh\", and must be a list of strings"),
            (r#"{"Cmd":{"a":1}}"#, "Cmd is {\"a\":1}, and must be"),
            (r#"{"Env":["A=b",7]}"#, "Env is"),
            (r#"{"WorkingDir":["/"]}"#, "WorkingDir is [\"/\"], and must be a string"),
            (r#"{"User":0}"#, "User is 0, and must be a string"),
            (r#"{"WorkingDir":"work"}"#, "WorkingDir is \"work\", which is not an absolute path"),
            (r#"{"Env":["A"]}"#, "Env has \"A\", which is not NAME=VALUE"),
            (r#"{"Env":["=b"]}"#, "Env has \"=b\""),
            (r#"{"Env":["A=\u0000"]}"#, "the variable A contains a NUL byte"),
            (r#"{"Env":["A=1"],"Env":["A=2"]}"#, "config has the key \"Env\" more than once"),
            ("[]", "config is [], and must be an object"),
            (long.as_str(), "the variable A has 131072 bytes"),
            (much.as_str(), "the kernel takes 2097152"),
        ] {
            let found = of_config(config);
            assert!(found.len() == 1 && found[0].contains(says), "{says}: {found:?}");
        }
        let twice = defects(r#"{"config":{"Entrypoint":"a"},"config":{}}"#);
        assert!(twice.len() == 1 && twice[0].contains("the key \"config\" more than once"), "{twice:?}");
    }

    #[test]
    fn a_long_value_is_cut_and_cannot_steer_a_terminal() {
        let found = of_config(&format!(r#"{{"WorkingDir":"\u001b[31m{}"}}"#, "é".repeat(100)));
        assert!(found[0].contains("\\u{1b}") && found[0].contains('…') && found[0].len() < 200, "{found:?}");
    }
}
