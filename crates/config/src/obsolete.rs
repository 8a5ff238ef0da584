//! Keys of earlier versions that have lost their meaning. A file that still has one is valid: an upgrade must not need an edit of the
//! file on all nodes at the same moment.

use serde::Deserialize as _;

use crate::Config;

/// The keys, each with its section.
const KEYS: [(&str, &str); 1] = [("run", "runtime")];

/// Parses a text that may have such keys. Returns the configuration without them, and their names; `None` if the text has none of them
/// or is invalid otherwise, too.
pub(crate) fn parse(text: &str) -> Option<Config> {
    let mut table: toml::Table = text.parse().ok()?;
    let mut found = Vec::new();
    for (section, key) in KEYS {
        let section_table = table.get_mut(section).and_then(toml::Value::as_table_mut);
        if section_table.is_some_and(|keys| keys.remove(key).is_some()) {
            found.push(format!("{section}.{key}"));
        }
    }
    let config = Config::deserialize(table).ok()?;
    (!found.is_empty()).then_some(Config { obsolete: found, ..config })
}

impl Config {
    /// Returns the warning for the administrator about obsolete keys of the file, if it has any.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let names = self.obsolete.join(", ");
        (!names.is_empty())
            .then(|| format!("obsolete key without an effect: {names}; remove it from the configuration"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn obsolete_keys_are_named_and_have_no_effect() {
        let old = Config::parse("stores = [\"/s\"]\n[run]\nruntime = \"/usr/bin/crun\"\nmount_home = false\n").unwrap();
        assert_eq!(old.obsolete, ["run.runtime"]);
        assert!(old.warning().unwrap().contains("run.runtime"));
        let new = Config::parse("stores = [\"/s\"]\n[run]\nmount_home = false\n").unwrap();
        assert_eq!((&new.run, new.warning()), (&old.run, None));
    }

    #[test]
    fn other_errors_keep_their_line() {
        let (line, message) = Config::parse("stores = [\"/s\"]\n[run]\nruntime = \"crun\"\nruntme = 1\n").unwrap_err();
        assert!(line.is_some() && message.contains("unknown field"), "{message}");
    }
}
