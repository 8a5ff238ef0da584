//! What the configuration's keys mean, and their values.

use anyhow::Context as _;
use parallax_config::{Config, Key, Section, Shape};
use toml::{Table, Value};

/// The defaults of all keys that have one.
#[derive(Debug)]
pub(crate) struct Defaults(Table);

impl Defaults {
    /// The defaults, as the parser gives them.
    ///
    /// # Errors
    /// If they cannot be written as TOML.
    pub(crate) fn load() -> anyhow::Result<Self> {
        let config = Config::parse("stores = [\"/\"]").map_err(|(_, message)| anyhow::anyhow!(message))?;
        Table::try_from(config).map(Self).context("the defaults cannot be written as TOML")
    }

    /// The default of a key, as it is written in the file.
    pub(crate) fn of(&self, section: &Section, key: &Key) -> Option<String> {
        self.0.get(section.name).and_then(|section| section.get(key.name)).map(Value::to_string)
    }
}

/// What a value can be, in words.
pub(crate) fn kind(shape: &Shape) -> String {
    if shape.list { format!("array of: {}", shape.kind) } else { shape.kind.to_owned() }
}
