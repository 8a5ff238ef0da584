//! What an image's configuration says of how it is run, and the text form of `parallax inspect`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use parallax_format::oci::{EXECUTION_KEYS, Execution};
use serde::Serialize;

/// What an image's configuration says of how it is run. In the JSON form as in the configuration, with its names in
/// small letters.
#[derive(Debug, Default, Serialize)]
pub(super) struct Settings {
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

impl From<Execution> for Settings {
    fn from(execution: Execution) -> Self {
        Self {
            env: execution.environment,
            entrypoint: execution.entrypoint,
            cmd: execution.command,
            user: execution.user,
            working_dir: execution.working_directory,
            labels: execution.labels,
        }
    }
}

impl Settings {
    /// Returns the settings that are there, with their names in the configuration.
    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let Self { env, entrypoint, cmd, user, working_dir, labels } = self;
        let words = |words: &Option<Vec<String>>| words.as_ref().map(|words| format!("{words:?}"));
        let labels = labels.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>();
        let settings = [
            (EXECUTION_KEYS.user, user.clone()),
            (EXECUTION_KEYS.working_directory, working_dir.clone()),
            (EXECUTION_KEYS.entrypoint, words(entrypoint)),
            (EXECUTION_KEYS.command, words(cmd)),
            (EXECUTION_KEYS.environment, env.as_ref().map(|env| env.join("\n"))),
            ("Labels", Some(labels.join("\n"))),
        ];
        let given = |(key, value): (_, Option<String>)| Some((key, value.filter(|text| !text.is_empty())?));
        settings.into_iter().filter_map(given).collect()
    }
}

/// Returns lines with their names before them.
pub(super) fn text(lines: &[(&str, String)]) -> String {
    lines.iter().fold(String::new(), |mut text, (key, value)| {
        for (number, line) in value.lines().enumerate() {
            // What an image says is not to steer the terminal.
            let line: String = line
                .chars()
                .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
                .collect();
            let _ = writeln!(text, "{:12}{line}", if number == 0 { key } else { "" });
        }
        text
    })
}
